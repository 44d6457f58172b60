//! Sizes as people write and read them.
//!
//! `10G`, `10GiB` and `10 gib` are all 10 × 2³⁰ bytes: storage of virtual machines is counted in
//! powers of two, and a suffix that meant something else in one place would be a trap. A number
//! alone is bytes.

const UNITS: [(&str, u32); 5] = [("K", 10), ("M", 20), ("G", 30), ("T", 40), ("P", 50)];

/// Parses a size into bytes.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let trimmed = text.trim();
    let end = trimmed
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(trimmed.len());
    let (number, suffix) = trimmed.split_at(end);
    let shift = shift(suffix.trim())
        .ok_or_else(|| format!("`{suffix}` is no unit; use K, M, G, T or P (powers of 1024)"))?;
    let bytes = scaled(number, shift).ok_or_else(|| format!("`{text}` is no size; write 10G"))?;
    if bytes == 0 {
        return Err("a size of nothing is no use".to_owned());
    }
    Ok(bytes)
}

fn shift(suffix: &str) -> Option<u32> {
    let upper = suffix.to_ascii_uppercase();
    if matches!(upper.as_str(), "" | "B") {
        return Some(0);
    }
    UNITS.iter().find_map(|(unit, shift)| {
        let rest = upper.strip_prefix(unit)?;
        matches!(rest, "" | "B" | "IB").then_some(*shift)
    })
}

/// `number` × 2^`shift`, exactly: `1.5G` works, `0.3K` (no whole number of bytes) does not.
fn scaled(number: &str, shift: u32) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || fraction.len() > 9 || whole.is_empty() {
        return None;
    }
    let digits = u32::try_from(fraction.len()).ok()?;
    let scale = 10u128.checked_pow(digits)?;
    let whole: u128 = whole.parse().ok()?;
    let fraction: u128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().ok()?
    };
    let total = whole
        .checked_mul(scale)?
        .checked_add(fraction)?
        .checked_mul(1u128 << shift)?;
    if total % scale != 0 {
        return None;
    }
    u64::try_from(total / scale).ok()
}

/// Shows bytes in the largest unit that leaves a number of at least one, with one decimal where it
/// is not exact.
pub(crate) fn show(bytes: u64) -> String {
    let unit = UNITS.iter().rev().find(|(_, shift)| bytes >> shift > 0);
    let Some((unit, shift)) = unit else {
        return format!("{bytes} B");
    };
    let one = 1u64 << shift;
    if bytes.is_multiple_of(one) {
        return format!("{} {unit}iB", bytes / one);
    }
    let tenths = u128::from(bytes) * 10 / u128::from(one);
    format!("{}.{} {unit}iB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_people_write() {
        for (text, bytes) in [
            ("512", 512),
            ("1K", 1024),
            ("10G", 10 << 30),
            ("10GiB", 10 << 30),
            ("10 gib", 10 << 30),
            ("10gb", 10 << 30),
            ("1.5T", (1u64 << 40) + (1 << 39)),
            ("16384P", 0),
            ("4096B", 4096),
        ] {
            match parse(text) {
                Ok(read) => assert_eq!(read, bytes, "{text}"),
                Err(_) => assert_eq!(bytes, 0, "{text}"),
            }
        }
    }

    #[test]
    fn sizes_that_are_none() {
        for text in [
            "",
            "G",
            "0",
            "-1G",
            "10X",
            "10GiBs",
            "1..5G",
            ".5G",
            "0.3K",
            "1e3",
            "99999999999T",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn shown_as_they_would_be_written() {
        assert_eq!(show(0), "0 B");
        assert_eq!(show(1023), "1023 B");
        assert_eq!(show(8 << 30), "8 GiB");
        assert_eq!(show((1 << 30) + (1 << 29)), "1.5 GiB");
        assert_eq!(show(u64::MAX), "16383.9 PiB");
    }
}
