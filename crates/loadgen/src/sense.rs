//! What sense data say.

/// Sense key, and additional sense code with its qualifier, of the command that the sense data came
/// with. None for deferred errors: those speak of an earlier command.
pub fn key_and_code(sense: &[u8]) -> Option<(u8, u16)> {
    let at = |place: usize| sense.get(place).copied().unwrap_or_default();
    match at(0) & 0x7f {
        0x70 => Some((at(2) & 0x0f, u16::from_be_bytes([at(12), at(13)]))),
        0x72 => Some((at(1) & 0x0f, u16::from_be_bytes([at(2), at(3)]))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_are_read_and_deferred_ones_are_not_the_commands() {
        let mut fixed = [0; 18];
        (fixed[0], fixed[2], fixed[12], fixed[13]) = (0xf0, 0x26, 0x29, 0x07);
        assert_eq!(key_and_code(&fixed), Some((6, 0x2907)));
        assert_eq!(key_and_code(&[0x72, 5, 0x24, 0]), Some((5, 0x2400)));
        fixed[0] = 0x71;
        assert_eq!(key_and_code(&fixed), None);
        assert_eq!(key_and_code(&[]), None);
    }
}
