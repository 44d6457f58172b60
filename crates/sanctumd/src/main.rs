//! sanctumd
fn main() {}
