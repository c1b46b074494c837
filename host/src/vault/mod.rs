//! Encryption of secrets at rest.
//!
//! Invariant: a secret leaf of a stored document is sealed under the row and the place it stands
//! in, so that it cannot be moved to another; plain text exists only between opening and use.
