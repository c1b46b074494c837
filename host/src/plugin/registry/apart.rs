//! Large files in memory of their own. It goes back to the system when it is dropped, where the
//! allocator would keep it for later: components and their code are read once, at the start.

use std::fs::File;
use std::io::{self, Read as _};

use bytes::Bytes;
use memmap2::MmapMut;

/// The next `len` bytes of `file`.
///
/// # Errors
/// `UnexpectedEof` when there are fewer.
pub(super) fn read(file: &mut File, len: u64) -> io::Result<Bytes> {
    let len = usize::try_from(len).map_err(io::Error::other)?;
    if len == 0 {
        return Ok(Bytes::new());
    }
    let mut buffer = MmapMut::map_anon(len)?;
    file.read_exact(&mut buffer)?;
    Ok(Bytes::from_owner(buffer))
}
