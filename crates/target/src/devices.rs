//! From a device in the configuration to a logical unit that is served.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use disk::beside::ProcessIdentity;
use disk::{Beside, BesideStore, DeviceError, Disk, DiskError, Geometry};
use scsi::{Identity, Kind, Medium, Unit};

use crate::config::{Backing, Config, Device};
use crate::info::{DeviceInfo, DeviceState, ReservationInfo, hex};
use crate::provision::Fault;
use crate::unit::{Durable, LogicalUnit};

/// Target and portal groups that a device is reached through.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Exposure {
    pub(crate) target: String,
    pub(crate) ports: Vec<u16>,
}

impl Exposure {
    pub(crate) fn of(config: &Config, device: &str) -> Self {
        let target = config
            .targets
            .iter()
            .find(|target| target.luns.iter().any(|lun| lun.device == device));
        let Some(target) = target else {
            return Self::default();
        };
        let mut ports: Vec<u16> = config
            .portals
            .iter()
            .filter(|portal| crate::access::answers_on(target, &portal.name))
            .map(|portal| portal.group)
            .collect();
        ports.sort_unstable();
        ports.dedup();
        Self {
            target: target.name.clone(),
            ports,
        }
    }
}

/// A device that was opened, or not, with what lies beside it. Blocks.
///
/// A device that cannot be opened still gives a unit, NOT READY, as long as its identity can be
/// read: its initiators see that their disk is in trouble, not that it is gone.
///
/// # Errors
/// The reason in words when there is not even an identity.
pub(crate) fn assemble(
    device: &Device,
    opened: Result<Arc<dyn Disk>, String>,
    exposure: &Exposure,
    data_dir: &Path,
) -> Result<LogicalUnit, String> {
    let store =
        BesideStore::for_device(&device.backing, &device.name, data_dir).map_err(|error| {
            opened
                .as_ref()
                .err()
                .cloned()
                .unwrap_or_else(|| chain(&error))
        })?;
    let mut beside = match &opened {
        Ok(_) => store.load_or_create().map_err(|error| chain(&error))?,
        Err(reason) => store
            .load()
            .map_err(|error| chain(&error))?
            .ok_or_else(|| reason.clone())?,
    };
    // While the device is not open, whoever has it may write its document: it is only looked at, and
    // read anew when the device is opened.
    if opened.is_ok() && take_over(device, &mut beside)? {
        store.save(&beside).map_err(|error| chain(&error))?;
    }
    let mut unit = describe(device, opened.as_deref().ok(), &beside, exposure);
    if is_empty(device, &beside)? {
        unit.medium = Medium::Absent;
    }
    let depth = depth(device);
    let durable = Durable {
        path: store.path().to_path_buf(),
        store: opened.is_ok().then_some(store),
        beside,
    };
    let unit = LogicalUnit::new(
        device.name.clone(),
        opened.as_ref().ok().cloned(),
        unit,
        depth,
        durable,
    );
    unit.set_trouble(opened.err());
    Ok(unit)
}

/// What opening a device makes of its document; `true`: to be saved.
pub(crate) fn take_over(device: &Device, beside: &mut Beside) -> Result<bool, String> {
    let mut news = crate::doubt::settle(beside).map_err(|error| chain(&error))?;
    if matches!(device.backing, Backing::Ram { .. }) && beside.contents.is_none() {
        beside.loaded(process()?);
        news = true;
    }
    Ok(news)
}

/// Whether it is a RAM disk whose contents ended with another process.
pub(crate) fn is_empty(device: &Device, beside: &Beside) -> Result<bool, String> {
    Ok(matches!(device.backing, Backing::Ram { .. }) && beside.contents_lost(process()?))
}

/// This process, as RAM disks remember it.
pub(crate) fn process() -> Result<&'static ProcessIdentity, String> {
    static PROCESS: OnceLock<Result<ProcessIdentity, String>> = OnceLock::new();
    let process = PROCESS.get_or_init(|| ProcessIdentity::current().map_err(|error| chain(&error)));
    process.as_ref().map_err(Clone::clone)
}

/// Commands that run at once.
pub(crate) fn depth(device: &Device) -> usize {
    if device.asynchronous {
        usize::from(device.queue_depth)
    } else {
        1
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// What is wrong, for programs.
pub(crate) fn fault(error: &DeviceError) -> Fault {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    match error {
        DeviceError::NoSpace { .. } => Fault::NoSpace,
        DeviceError::Missing { .. } => Fault::Missing,
        DeviceError::Locked { .. } => Fault::InUse,
        DeviceError::Beside(disk::BesideError::Save { source, .. })
            if matches!(source.kind(), StorageFull | QuotaExceeded) =>
        {
            Fault::NoSpace
        }
        _ => Fault::Other,
    }
}

/// The unit as it is published first.
fn describe(
    device: &Device,
    disk: Option<&dyn Disk>,
    beside: &Beside,
    exposure: &Exposure,
) -> Unit {
    let kind = match device.backing {
        Backing::Iso { .. } => Kind::Optical,
        Backing::Image { .. } | Backing::Block { .. } | Backing::Ram { .. } => Kind::Disk,
    };
    let identity = identity(kind, beside.serial.clone(), beside.naa, exposure);
    let (block_size, blocks) = disk.map_or_else(
        || (declared_block_size(&device.backing, kind), 0),
        |disk| (disk.geometry().block_size, blocks(disk.geometry(), device)),
    );
    let mut unit = Unit::new(kind, Arc::new(identity), block_size, blocks);
    restore(&mut unit, beside);
    unit.medium = if disk.is_some() {
        Medium::Present
    } else {
        Medium::Stuck
    };
    unit.removable |= device.removable;
    unit.read_only |= device.backing.read_only();
    if let Some(disk) = disk {
        adopt_features(&mut unit, disk, device);
    }
    unit
}

/// What of a unit is kept beside its device.
pub(crate) fn restore(unit: &mut Unit, beside: &Beside) {
    unit.mode = scsi::mode::State::restore(beside.mode.unwrap_or_default());
    let saved = beside.reservations.clone();
    let reservations = saved.map(scsi::reservation::State::restore);
    unit.reservations = Arc::new(reservations.unwrap_or_default());
}

/// What the device can do, as told to initiators.
pub(crate) fn adopt_features(unit: &mut Unit, disk: &dyn Disk, device: &Device) {
    let features = disk.features();
    let geometry = disk.geometry();
    unit.physical_block_size = physical(geometry, device);
    unit.thin = features.thin;
    unit.unmap_granularity = features.unmap_granularity;
    unit.rotational = features.rotational;
    unit.volatile_cache = features.volatile_cache;
    unit.read_only |= features.read_only;
}

/// Size as told to initiators, in blocks: never more than the settings say, so that a file that is
/// longer (a change was refused half-way) shows nothing that a later start would take away again.
pub(crate) fn blocks(geometry: Geometry, device: &Device) -> u64 {
    match &device.backing {
        Backing::Image { size, .. } | Backing::Ram { size, .. } => geometry
            .blocks
            .min(size / u64::from(geometry.block_size.max(1))),
        Backing::Block { .. } | Backing::Iso { .. } => geometry.blocks,
    }
}

/// Physical block size as told to initiators.
pub(crate) const fn physical(geometry: Geometry, device: &Device) -> u32 {
    if device.physical_blocks {
        geometry.physical_block_size
    } else {
        geometry.block_size
    }
}

fn declared_block_size(backing: &Backing, kind: Kind) -> u32 {
    match backing {
        Backing::Image { block_size, .. } | Backing::Ram { block_size, .. } => *block_size,
        Backing::Block { block_size, .. } => block_size.unwrap_or(512),
        Backing::Iso { .. } => {
            debug_assert_eq!(kind, Kind::Optical);
            2048
        }
    }
}

/// What never changes, and the ports it is reached through.
pub(crate) fn identity(kind: Kind, serial: String, naa: [u8; 16], exposure: &Exposure) -> Identity {
    let mut identity = Identity::new(kind, serial, naa, exposure.target.clone());
    if !exposure.ports.is_empty() {
        identity.ports = exposure.ports.clone();
    }
    identity
}

/// A line of the listing.
pub(crate) fn info(device: &Device, unit: &LogicalUnit) -> DeviceInfo {
    let published = unit.published();
    let disk = unit.disk();
    let state = match (published.medium, unit.trouble()) {
        (Medium::Present, _) => DeviceState::Ready,
        (Medium::Ejected, _) => DeviceState::Ejected,
        (Medium::Absent, None) => DeviceState::Empty,
        (_, reason) => DeviceState::NotReady {
            reason: reason.unwrap_or_else(|| "it is being loaded".to_owned()),
        },
    };
    DeviceInfo {
        name: device.name.clone(),
        kind: device.backing.kind().to_owned(),
        path: device.backing.path().map(Path::to_path_buf),
        size: published.blocks * u64::from(published.block_size),
        block_size: published.block_size,
        state,
        cache: disk.as_ref().map_or(device.cache, |disk| disk.cache_mode()),
        notes: disk.map_or_else(Vec::new, |disk| notes(disk.as_ref())),
        serial: published.identity.serial.clone(),
        naa: hex(&published.identity.naa),
        reservations: reservations(&published),
        running: unit.gate.running(),
        counters: unit.counters.snapshot(),
    }
}

/// What an operator should know of a device that is open. One that is broken goes on as far as it
/// can, and its LUN is ready: only here is it told that it has to be loaded.
fn notes(disk: &dyn Disk) -> Vec<String> {
    let broken = disk.broken().map(|error| {
        let what = match error {
            DiskError::Gone => error.to_string(),
            _ => format!("a flush failed: {error}"),
        };
        format!("{what}; nothing is made stable until it is loaded anew")
    });
    broken.into_iter().chain(disk.notes()).collect()
}

/// A device without a unit.
pub(crate) fn failed_info(device: &Device, reason: &str) -> DeviceInfo {
    DeviceInfo {
        name: device.name.clone(),
        kind: device.backing.kind().to_owned(),
        path: device.backing.path().map(Path::to_path_buf),
        size: 0,
        block_size: 0,
        state: DeviceState::NotReady {
            reason: reason.to_owned(),
        },
        cache: device.cache,
        notes: Vec::new(),
        serial: String::new(),
        naa: String::new(),
        reservations: ReservationInfo::default(),
        running: 0,
        counters: crate::info::DeviceCounters::default(),
    }
}

fn reservations(unit: &Unit) -> ReservationInfo {
    let state = &unit.reservations;
    let reservation = state.reservation();
    ReservationInfo {
        generation: state.generation(),
        persistent: state.aptpl(),
        kind: reservation.map(|reservation| words(reservation.kind).to_owned()),
        holder: reservation
            .and_then(|reservation| reservation.holder.as_ref())
            .map(|nexus| nexus.initiator.to_string()),
        registrations: state
            .registrations()
            .map(|(nexus, _)| (nexus.initiator.to_string(), hex(&nexus.isid), nexus.port))
            .collect(),
    }
}

/// SPC's names of the reservation types.
const fn words(kind: scsi::reservation::Type) -> &'static str {
    use scsi::reservation::Type;
    match kind {
        Type::WriteExclusive => "Write Exclusive",
        Type::ExclusiveAccess => "Exclusive Access",
        Type::WriteExclusiveRegistrantsOnly => "Write Exclusive - Registrants Only",
        Type::ExclusiveAccessRegistrantsOnly => "Exclusive Access - Registrants Only",
        Type::WriteExclusiveAllRegistrants => "Write Exclusive - All Registrants",
        Type::ExclusiveAccessAllRegistrants => "Exclusive Access - All Registrants",
    }
}

/// Initiators with registrations, for a person to read.
pub(crate) fn holders(unit: &Unit) -> Option<String> {
    let state = &unit.reservations;
    if state.is_empty() {
        return None;
    }
    let mut names: Vec<String> = state
        .registrations()
        .map(|(nexus, _)| nexus.initiator.to_string())
        .collect();
    names.sort();
    names.dedup();
    Some(names.join(", "))
}
