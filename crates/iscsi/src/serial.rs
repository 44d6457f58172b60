//! Serial-number arithmetic (32 bits, as RFC 1982 has it): sequence numbers wrap around.

/// `a` comes after `b` (by less than half the number space).
#[must_use]
pub const fn after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).wrapping_sub(1) < 0x7fff_ffff
}

/// `a` comes before `b`.
#[must_use]
pub const fn before(a: u32, b: u32) -> bool {
    after(b, a)
}

/// `low <= n <= high`, where the two bounds are less than half the number space apart.
///
/// False for every `n` when `high` stands just before `low` (an empty window).
#[must_use]
pub const fn within(n: u32, low: u32, high: u32) -> bool {
    !before(n, low) && !after(n, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_survives_the_wrap() {
        assert!(after(0, u32::MAX));
        assert!(before(u32::MAX, 3));
        assert!(!after(7, 7));
        assert!(!before(7, 7));
        assert!(after(0x7fff_ffff, 0));
        assert!(!after(0x8000_0000, 0));
    }

    #[test]
    fn windows() {
        assert!(within(5, 5, 5));
        assert!(within(1, u32::MAX, 4));
        assert!(!within(5, 5, 4), "an empty window holds nothing");
        assert!(!within(4, 5, 4));
        assert!(!within(10, 5, 9));
    }
}
