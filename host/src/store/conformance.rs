//! What every back end must do: plain functions over `&dyn Store`.
macro_rules! cases {
    ($open:ident) => {};
}
pub(crate) use cases;
