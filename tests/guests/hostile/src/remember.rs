//! Attack on the memory that an earlier call used.

use std::arch::wasm32::{memory_grow, memory_size};
use std::hint::black_box;

const PAGE_BYTES: usize = 64 << 10;
const WORD_BYTES: usize = size_of::<u64>();
/// Big enough to lie beyond what the host keeps resident of an instance.
const PLANTED_BYTES: usize = 6 << 20;

/// What is planted. Only this module computes it, into locals: it stands in no document, so that
/// finding it in memory means that an earlier call left it there.
fn word(key: u64) -> u64 {
    key.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) | 1
}

/// Fills a buffer and finds it again: shows that looking works.
pub fn plant(key: u64) -> String {
    let field = vec![word(key); PLANTED_BYTES / WORD_BYTES];
    black_box(&field);
    let found = count(key);
    black_box(&field);
    format!("found {found}")
}

/// Looks through the whole memory, and through fresh pages as large as what was planted.
pub fn look(key: u64) -> String {
    memory_grow::<0>(2 * PLANTED_BYTES / PAGE_BYTES);
    format!("found {}", count(key))
}

fn count(key: u64) -> usize {
    let wanted = word(key);
    let words = memory_size::<0>() * PAGE_BYTES / WORD_BYTES;
    (1..words)
        .filter(|index| {
            let address = (index * WORD_BYTES) as *const u64;
            #[expect(
                unsafe_code,
                reason = "an attack: reads its whole memory, which is all mapped up to memory_size"
            )]
            let here = unsafe { address.read_volatile() };
            here == wanted
        })
        .count()
}
