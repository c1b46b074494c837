//! (to be written)
/// A pattern.
#[derive(Clone, Debug)]
pub struct HostPattern;
