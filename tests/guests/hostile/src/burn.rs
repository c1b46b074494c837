//! Attacks on CPU time, memory and stack.

use std::hint::black_box;

use crate::Outcome;

pub fn spin() -> Outcome {
    loop {
        black_box(());
    }
}

/// A few instructions that each move much: `memory.copy`.
pub fn copy() -> Outcome {
    let mut bytes = vec![1_u8; 8 << 20];
    let half = bytes.len() / 2;
    loop {
        bytes.copy_within(..half, half);
        black_box(&mut bytes);
    }
}

pub fn allocate() -> Outcome {
    let mut hoard = Vec::new();
    loop {
        hoard.push(black_box(vec![1_u8; 1 << 20]));
    }
}

/// Deeper without end. Neither a loop nor a sum, so that it stays a recursion.
fn fall(depth: u64) -> u64 {
    if depth == 0 {
        return 1;
    }
    let below = fall(depth - 1);
    below.rotate_left(3) ^ fall(below ^ depth)
}

pub fn recurse() -> Outcome {
    Ok(fall(black_box(u64::MAX)).to_string())
}
