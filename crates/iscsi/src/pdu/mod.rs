//! Wire structures: the 48-byte basic header segment of every PDU, each described once.
//!
//! A PDU type is a table of named fields with their byte positions (RFC 7143 section 11). The same
//! table decodes and encodes, so the two engines cannot disagree. Lengths (total AHS length and
//! data segment length) belong to the framing ([`crate::frame`]) and are no fields here; reserved
//! fields are sent as zero and ignored when received.

mod codes;

pub use codes::*;

/// Length of a basic header segment.
pub const BHS_LEN: usize = 48;

/// The tag that names no task.
pub const NO_TAG: u32 = 0xffff_ffff;

/// Final bit of byte 1.
pub const FINAL: u8 = 0x80;
/// Transit bit of byte 1 in login PDUs.
pub const TRANSIT: u8 = 0x80;
/// Login stage (CSG and NSG): security negotiation.
pub const STAGE_SECURITY: u8 = 0;
/// Login stage: operational negotiation.
pub const STAGE_OPERATIONAL: u8 = 1;
/// Login stage: login is over.
pub const STAGE_FULL_FEATURE: u8 = 3;
/// Continue bit of byte 1 in login and text PDUs.
pub const CONTINUE: u8 = 0x40;
/// A SCSI command expects data in.
pub const READ: u8 = 0x40;
/// A SCSI command expects to send data.
pub const WRITE: u8 = 0x20;
/// Residual overflow (SCSI Response, Data-In).
pub const OVERFLOW: u8 = 0x04;
/// Residual underflow (SCSI Response, Data-In).
pub const UNDERFLOW: u8 = 0x02;
/// Overflow of the read part of a bidirectional command.
pub const BIDI_OVERFLOW: u8 = 0x10;
/// Underflow of the read part of a bidirectional command.
pub const BIDI_UNDERFLOW: u8 = 0x08;
/// A Data-In PDU carries the status.
pub const STATUS: u8 = 0x01;
/// A Data-In PDU asks for an acknowledgement (never sent at error recovery level 0).
pub const ACKNOWLEDGE: u8 = 0x40;

const IMMEDIATE: u8 = 0x40;
const OPCODE_MASK: u8 = 0x3f;

/// A basic header segment as it is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header(pub [u8; BHS_LEN]);

impl Header {
    /// An empty header of this kind.
    #[must_use]
    pub const fn new(opcode: Opcode) -> Self {
        let mut bytes = [0; BHS_LEN];
        let [first, ..] = &mut bytes;
        *first = opcode as u8;
        Self(bytes)
    }

    /// The opcode, if it is one the standard defines.
    #[must_use]
    pub fn opcode(&self) -> Option<Opcode> {
        Opcode::from_wire(self.raw_opcode())
    }

    /// The six opcode bits as they came.
    #[must_use]
    pub const fn raw_opcode(&self) -> u8 {
        let [first, ..] = &self.0;
        *first & OPCODE_MASK
    }

    /// The I bit: delivered at once, outside the order of CmdSN.
    #[must_use]
    pub const fn immediate(&self) -> bool {
        let [first, ..] = &self.0;
        *first & IMMEDIATE != 0
    }

    /// Length of the additional header segments in bytes (a multiple of four, up to 1020).
    #[must_use]
    pub fn ahs_len(&self) -> usize {
        usize::from(u8::get(&self.0, 4)).saturating_mul(4)
    }

    /// Length of the data segment in bytes, padding not counted.
    #[must_use]
    pub fn data_len(&self) -> u32 {
        u32::get(&self.0, 4) & 0x00ff_ffff
    }

    /// Sets the data segment length; `len` is at most 24 bits.
    pub fn set_data_len(&mut self, len: u32) {
        let ahs = u32::from(u8::get(&self.0, 4)) << 24;
        (ahs | (len & 0x00ff_ffff)).put(&mut self.0, 4);
    }

    /// Sets the length of the additional header segments, in words of four bytes.
    pub fn set_ahs_words(&mut self, words: u8) {
        words.put(&mut self.0, 4);
    }

    /// The initiator task tag.
    #[must_use]
    pub fn itt(&self) -> u32 {
        u32::get(&self.0, 16)
    }

    /// CmdSN of a request.
    #[must_use]
    pub fn cmd_sn(&self) -> u32 {
        u32::get(&self.0, 24)
    }

    /// ExpStatSN of any PDU of an initiator.
    #[must_use]
    pub fn exp_stat_sn(&self) -> u32 {
        u32::get(&self.0, 28)
    }
}

/// A value with a fixed place in a header.
trait Field: Sized {
    fn get(header: &[u8; BHS_LEN], at: usize) -> Self;
    fn put(&self, header: &mut [u8; BHS_LEN], at: usize);
}

/// Positions come from the tables below and are inside the header; zero would stand for a table
/// that lies, which the round-trip test would show.
fn array<const N: usize>(header: &[u8; BHS_LEN], at: usize) -> [u8; N] {
    header
        .get(at..)
        .and_then(|tail| tail.first_chunk::<N>())
        .copied()
        .unwrap_or([0; N])
}

fn place<const N: usize>(header: &mut [u8; BHS_LEN], at: usize, value: [u8; N]) {
    if let Some(slot) = header
        .get_mut(at..)
        .and_then(|tail| tail.first_chunk_mut::<N>())
    {
        *slot = value;
    }
}

macro_rules! integer_field {
    ($($type:ty),*) => {$(
        impl Field for $type {
            fn get(header: &[u8; BHS_LEN], at: usize) -> Self {
                Self::from_be_bytes(array(header, at))
            }
            fn put(&self, header: &mut [u8; BHS_LEN], at: usize) {
                place(header, at, self.to_be_bytes());
            }
        }
    )*};
}
integer_field!(u8, u16, u32, u64);

impl<const N: usize> Field for [u8; N] {
    fn get(header: &[u8; BHS_LEN], at: usize) -> Self {
        array(header, at)
    }
    fn put(&self, header: &mut [u8; BHS_LEN], at: usize) {
        place(header, at, *self);
    }
}

/// The I bit, beside the opcode in byte 0.
impl Field for bool {
    fn get(header: &[u8; BHS_LEN], at: usize) -> Self {
        u8::get(header, at) & IMMEDIATE != 0
    }
    fn put(&self, header: &mut [u8; BHS_LEN], at: usize) {
        let opcode = u8::get(header, at) & OPCODE_MASK;
        (opcode | if *self { IMMEDIATE } else { 0 }).put(header, at);
    }
}

macro_rules! pdu {
    ($(
        $(#[$about:meta])*
        $name:ident { $( $(#[$doc:meta])* $field:ident: $type:ty = $at:literal ),* $(,)? }
    )*) => {
        $(
            $(#[$about])*
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
            pub struct $name { $( $(#[$doc])* pub $field: $type, )* }

            impl $name {
                /// Reads the fields; the opcode was looked at before.
                #[must_use]
                pub fn decode(header: &Header) -> Self {
                    Self { $( $field: Field::get(&header.0, $at), )* }
                }

                /// Writes opcode and fields; lengths are zero until the framing sets them.
                #[must_use]
                pub fn encode(&self) -> Header {
                    let mut header = Header::new(Opcode::$name);
                    $( self.$field.put(&mut header.0, $at); )*
                    header
                }
            }
        )*
    };
}

pdu! {
    /// A ping from the initiator, or its answer to a ping of the target.
    NopOut {
        /// I bit.
        immediate: bool = 0,
        /// [`FINAL`], always.
        flags: u8 = 1,
        /// Logical unit, meaningful beside a target transfer tag.
        lun: u64 = 8,
        /// Initiator task tag; [`NO_TAG`] when no answer is wanted.
        itt: u32 = 16,
        /// The tag of the NOP-In that this answers, or [`NO_TAG`].
        ttt: u32 = 20,
        /// Command sequence number.
        cmd_sn: u32 = 24,
        /// Next status sequence number the initiator expects.
        exp_stat_sn: u32 = 28,
    }
    /// A SCSI command.
    ScsiCommand {
        /// I bit.
        immediate: bool = 0,
        /// [`FINAL`] (no unsolicited data follows), [`READ`], [`WRITE`] and the task attribute.
        flags: u8 = 1,
        /// Logical unit.
        lun: u64 = 8,
        /// Initiator task tag.
        itt: u32 = 16,
        /// Expected data transfer length in bytes.
        edtl: u32 = 20,
        /// Command sequence number.
        cmd_sn: u32 = 24,
        /// Next status sequence number the initiator expects.
        exp_stat_sn: u32 = 28,
        /// The first 16 bytes of the CDB.
        cdb: [u8; 16] = 32,
    }
    /// A task management function request.
    TaskManagement {
        /// I bit.
        immediate: bool = 0,
        /// [`FINAL`] and the function ([`TmfFunction`]).
        flags: u8 = 1,
        /// Logical unit.
        lun: u64 = 8,
        /// Initiator task tag of the function itself.
        itt: u32 = 16,
        /// Tag of the task to abort or reassign.
        referenced_itt: u32 = 20,
        /// Command sequence number.
        cmd_sn: u32 = 24,
        /// Next status sequence number the initiator expects.
        exp_stat_sn: u32 = 28,
        /// CmdSN of the task to abort.
        ref_cmd_sn: u32 = 32,
        /// Next data sequence number expected (task reassign).
        exp_data_sn: u32 = 36,
    }
    /// A login request.
    LoginRequest {
        /// I bit, always set.
        immediate: bool = 0,
        /// [`TRANSIT`], [`CONTINUE`], current and next stage.
        flags: u8 = 1,
        /// Highest version the initiator speaks.
        version_max: u8 = 2,
        /// Lowest version the initiator speaks.
        version_min: u8 = 3,
        /// The initiator's part of the session identifier.
        isid: [u8; 6] = 8,
        /// The target's part; zero for a new session.
        tsih: u16 = 14,
        /// Initiator task tag, the same through the whole login.
        itt: u32 = 16,
        /// Connection identifier.
        cid: u16 = 20,
        /// The first CmdSN of the session.
        cmd_sn: u32 = 24,
        /// Next status sequence number the initiator expects.
        exp_stat_sn: u32 = 28,
    }
    /// A text request.
    TextRequest {
        /// I bit.
        immediate: bool = 0,
        /// [`FINAL`], [`CONTINUE`].
        flags: u8 = 1,
        /// Logical unit, echoed beside a target transfer tag.
        lun: u64 = 8,
        /// Initiator task tag.
        itt: u32 = 16,
        /// [`NO_TAG`] for a new exchange, else the tag of the response before.
        ttt: u32 = 20,
        /// Command sequence number.
        cmd_sn: u32 = 24,
        /// Next status sequence number the initiator expects.
        exp_stat_sn: u32 = 28,
    }
    /// Data of a write.
    DataOut {
        /// [`FINAL`]: the last of its sequence.
        flags: u8 = 1,
        /// Logical unit, beside a target transfer tag.
        lun: u64 = 8,
        /// Initiator task tag.
        itt: u32 = 16,
        /// Tag of the R2T it answers; [`NO_TAG`] when unsolicited.
        ttt: u32 = 20,
        /// Next status sequence number the initiator expects.
        exp_stat_sn: u32 = 28,
        /// Number within its sequence, from zero.
        data_sn: u32 = 36,
        /// Place in the command's data.
        buffer_offset: u32 = 40,
    }
    /// A logout request.
    LogoutRequest {
        /// I bit.
        immediate: bool = 0,
        /// [`FINAL`] and the reason ([`LogoutReason`]).
        flags: u8 = 1,
        /// Initiator task tag.
        itt: u32 = 16,
        /// The connection to close or recover.
        cid: u16 = 20,
        /// Command sequence number.
        cmd_sn: u32 = 24,
        /// Next status sequence number the initiator expects.
        exp_stat_sn: u32 = 28,
    }
    /// A request for PDUs to be sent again (error recovery level 1 and up).
    Snack {
        /// [`FINAL`] and the type.
        flags: u8 = 1,
        /// Logical unit.
        lun: u64 = 8,
        /// Initiator task tag.
        itt: u32 = 16,
        /// Target transfer tag or SNACK tag.
        ttt: u32 = 20,
        /// Next status sequence number the initiator expects.
        exp_stat_sn: u32 = 28,
        /// First number wanted.
        beg_run: u32 = 40,
        /// How many.
        run_length: u32 = 44,
    }
    /// The answer to a ping, or a ping of the target.
    NopIn {
        /// [`FINAL`], always.
        flags: u8 = 1,
        /// Logical unit, beside a target transfer tag.
        lun: u64 = 8,
        /// Tag of the NOP-Out that this answers, or [`NO_TAG`].
        itt: u32 = 16,
        /// A tag when an answer is wanted, or [`NO_TAG`].
        ttt: u32 = 20,
        /// Status sequence number.
        stat_sn: u32 = 24,
        /// Next CmdSN expected.
        exp_cmd_sn: u32 = 28,
        /// Highest CmdSN accepted.
        max_cmd_sn: u32 = 32,
    }
    /// The status of a SCSI command.
    ScsiResponse {
        /// [`FINAL`] and the residual flags.
        flags: u8 = 1,
        /// 0: the command was completed at the target; 1: the target failed.
        response: u8 = 2,
        /// SCSI status.
        status: u8 = 3,
        /// Initiator task tag.
        itt: u32 = 16,
        /// SNACK tag.
        snack_tag: u32 = 20,
        /// Status sequence number.
        stat_sn: u32 = 24,
        /// Next CmdSN expected.
        exp_cmd_sn: u32 = 28,
        /// Highest CmdSN accepted.
        max_cmd_sn: u32 = 32,
        /// How many Data-In and R2T PDUs were sent for the task.
        exp_data_sn: u32 = 36,
        /// Residual of the read part of a bidirectional command.
        bidi_residual: u32 = 40,
        /// Residual.
        residual: u32 = 44,
    }
    /// The answer to a task management function.
    TaskManagementResponse {
        /// [`FINAL`], always.
        flags: u8 = 1,
        /// [`TmfResponse`].
        response: u8 = 2,
        /// Initiator task tag of the function.
        itt: u32 = 16,
        /// Status sequence number.
        stat_sn: u32 = 24,
        /// Next CmdSN expected.
        exp_cmd_sn: u32 = 28,
        /// Highest CmdSN accepted.
        max_cmd_sn: u32 = 32,
    }
    /// A login response.
    LoginResponse {
        /// [`TRANSIT`], [`CONTINUE`], current and next stage.
        flags: u8 = 1,
        /// Highest version the target speaks.
        version_max: u8 = 2,
        /// Version in use.
        version_active: u8 = 3,
        /// The initiator's part of the session identifier.
        isid: [u8; 6] = 8,
        /// The target's part, given with the last response.
        tsih: u16 = 14,
        /// Initiator task tag.
        itt: u32 = 16,
        /// Status sequence number.
        stat_sn: u32 = 24,
        /// Next CmdSN expected.
        exp_cmd_sn: u32 = 28,
        /// Highest CmdSN accepted.
        max_cmd_sn: u32 = 32,
        /// Status class and detail ([`LoginStatus`]).
        status: u16 = 36,
    }
    /// A text response.
    TextResponse {
        /// [`FINAL`], [`CONTINUE`].
        flags: u8 = 1,
        /// Logical unit.
        lun: u64 = 8,
        /// Initiator task tag.
        itt: u32 = 16,
        /// A tag when the exchange goes on, or [`NO_TAG`].
        ttt: u32 = 20,
        /// Status sequence number.
        stat_sn: u32 = 24,
        /// Next CmdSN expected.
        exp_cmd_sn: u32 = 28,
        /// Highest CmdSN accepted.
        max_cmd_sn: u32 = 32,
    }
    /// Data of a read, perhaps with the status.
    DataIn {
        /// [`FINAL`], [`ACKNOWLEDGE`], residual flags, [`STATUS`].
        flags: u8 = 1,
        /// SCSI status, beside [`STATUS`].
        status: u8 = 3,
        /// Logical unit.
        lun: u64 = 8,
        /// Initiator task tag.
        itt: u32 = 16,
        /// Tag for acknowledgements, or [`NO_TAG`].
        ttt: u32 = 20,
        /// Status sequence number, beside [`STATUS`].
        stat_sn: u32 = 24,
        /// Next CmdSN expected.
        exp_cmd_sn: u32 = 28,
        /// Highest CmdSN accepted.
        max_cmd_sn: u32 = 32,
        /// Number within the command, from zero.
        data_sn: u32 = 36,
        /// Place in the command's data.
        buffer_offset: u32 = 40,
        /// Residual, beside [`STATUS`].
        residual: u32 = 44,
    }
    /// Ready to transfer: the target asks for a part of a write's data.
    ReadyToTransfer {
        /// [`FINAL`], always.
        flags: u8 = 1,
        /// Logical unit.
        lun: u64 = 8,
        /// Initiator task tag.
        itt: u32 = 16,
        /// Tag the data has to carry.
        ttt: u32 = 20,
        /// Next status sequence number (not advanced).
        stat_sn: u32 = 24,
        /// Next CmdSN expected.
        exp_cmd_sn: u32 = 28,
        /// Highest CmdSN accepted.
        max_cmd_sn: u32 = 32,
        /// Number within the command, from zero.
        r2t_sn: u32 = 36,
        /// Place in the command's data.
        buffer_offset: u32 = 40,
        /// Bytes wanted.
        desired_len: u32 = 44,
    }
    /// Something the initiator did not ask for.
    AsyncMessage {
        /// [`FINAL`], always.
        flags: u8 = 1,
        /// Logical unit (SCSI events).
        lun: u64 = 8,
        /// [`NO_TAG`].
        itt: u32 = 16,
        /// Status sequence number.
        stat_sn: u32 = 24,
        /// Next CmdSN expected.
        exp_cmd_sn: u32 = 28,
        /// Highest CmdSN accepted.
        max_cmd_sn: u32 = 32,
        /// What happened ([`AsyncEvent`]).
        event: u8 = 36,
        /// Vendor's code.
        vendor_code: u8 = 37,
        /// First parameter.
        parameter1: u16 = 38,
        /// Second parameter.
        parameter2: u16 = 40,
        /// Third parameter.
        parameter3: u16 = 42,
    }
    /// The answer to a logout.
    LogoutResponse {
        /// [`FINAL`], always.
        flags: u8 = 1,
        /// [`LogoutStatus`].
        response: u8 = 2,
        /// Initiator task tag.
        itt: u32 = 16,
        /// Status sequence number.
        stat_sn: u32 = 24,
        /// Next CmdSN expected.
        exp_cmd_sn: u32 = 28,
        /// Highest CmdSN accepted.
        max_cmd_sn: u32 = 32,
        /// Seconds to wait before coming back.
        time2wait: u16 = 40,
        /// Seconds, after the wait, for which tasks are kept.
        time2retain: u16 = 42,
    }
    /// A PDU was not accepted; its header is the data segment.
    Reject {
        /// [`FINAL`], always.
        flags: u8 = 1,
        /// [`RejectReason`].
        reason: u8 = 2,
        /// [`NO_TAG`].
        itt: u32 = 16,
        /// Status sequence number.
        stat_sn: u32 = 24,
        /// Next CmdSN expected.
        exp_cmd_sn: u32 = 28,
        /// Highest CmdSN accepted.
        max_cmd_sn: u32 = 32,
        /// Next DataSN or R2TSN, beside the reasons that concern them.
        data_sn: u32 = 36,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_share_a_word() {
        let mut header = NopOut::default().encode();
        header.set_data_len(0x0012_3456);
        header.set_ahs_words(3);
        assert_eq!(header.data_len(), 0x0012_3456);
        assert_eq!(header.ahs_len(), 12);
        header.set_data_len(1);
        assert_eq!(header.ahs_len(), 12);
    }

    #[test]
    fn a_scsi_command_byte_by_byte() {
        let header = ScsiCommand {
            immediate: true,
            flags: FINAL | READ | 1,
            lun: 0x0005_0000_0000_0000,
            itt: 0x1122_3344,
            edtl: 4096,
            cmd_sn: 7,
            exp_stat_sn: 9,
            cdb: [0x28; 16],
        }
        .encode();
        let mut bytes = vec![0x41, 0xc1, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0];
        bytes.extend([
            0x11, 0x22, 0x33, 0x44, 0, 0, 0x10, 0, 0, 0, 0, 7, 0, 0, 0, 9,
        ]);
        bytes.extend([0x28; 16]);
        assert_eq!(header.0.as_slice(), bytes);
        assert_eq!(header.opcode(), Some(Opcode::ScsiCommand));
        assert!(header.immediate());
        assert_eq!((header.itt(), header.cmd_sn()), (0x1122_3344, 7));
    }

    /// Decoding what was encoded gives the same fields: no two of a table overlap.
    #[test]
    fn tables_do_not_overlap() {
        macro_rules! check {
            ($($name:ident),*) => {$({
                let pattern: [u8; BHS_LEN] = std::array::from_fn(|i| u8::try_from(i * 5 + 3).unwrap());
                let mut header = Header(pattern);
                header.0[0] = Opcode::$name as u8 | 0x40;
                let decoded = $name::decode(&header);
                assert_eq!($name::decode(&decoded.encode()), decoded, stringify!($name));
                assert_eq!(decoded.encode().opcode(), Some(Opcode::$name));
            })*};
        }
        check!(
            NopOut,
            ScsiCommand,
            TaskManagement,
            LoginRequest,
            TextRequest,
            DataOut,
            LogoutRequest,
            Snack,
            NopIn,
            ScsiResponse,
            TaskManagementResponse,
            LoginResponse,
            TextResponse,
            DataIn,
            ReadyToTransfer,
            AsyncMessage,
            LogoutResponse,
            Reject
        );
    }
}
