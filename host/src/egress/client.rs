//! (to be written)
/// The client.
#[derive(Debug)]
pub struct Egress;
