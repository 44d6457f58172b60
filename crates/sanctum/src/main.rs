//! sanctum
fn main() {}
