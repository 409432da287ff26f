//! Deterministic fuzzing of what others write: no input may panic or take long. The targets are tests of the modules
//! that they belong to; `hack/fuzz` runs one for as long as asked, the tests run all of them for a moment.
//!
//! The same seed gives the same inputs; what fails is printed, with the seed that makes it again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// How many inputs a target gets where nobody asks for more.
const SHORT: u64 = 3000;
/// An input that takes more of a processor's time is a denial of service.
const SLOW: Duration = Duration::from_secs(2);
/// What parsers stumble on.
const TOKENS: [&[u8]; 20] = [
    b"",
    b"\0",
    b"\n",
    b"\r\n",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x80\x80\x80\x80\x00",
    b"\x0a\xff\xff\xff\xff\x0f",
    b"\xc3\x28",
    b"\xe2\x82",
    b"%zz%",
    b"../..",
    b"-1",
    b"1e308",
    b"18446744073709551616",
    b"null",
    b"{\"",
    b"[[",
    b"\\ud800",
    b"9999-99-99T99:99:99.999999999Z",
];

/// A xorshift generator.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Less than `limit`; 0 where that is 0.
    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit.max(1)
    }

    /// A place in what is `len` long, and one after it at a distance that is mostly small.
    fn range(&mut self, len: usize) -> std::ops::Range<usize> {
        let start = self.below(len);
        let width = if self.below(4) == 0 { len } else { 16 };
        start..(start + self.below(width)).min(len)
    }
}

fn mutate(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut input = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(6) {
        let range = random.range(input.len());
        match random.below(6) {
            0 => drop(input.drain(range)),
            1 => {
                let copy = input[range.clone()].repeat(1 + random.below(8));
                drop(input.splice(range.start..range.start, copy));
            }
            2 => drop(input.splice(range, TOKENS[random.below(TOKENS.len())].iter().copied())),
            3 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.range(other.len());
                drop(input.splice(range, other[from].iter().copied()));
            }
            4 => {
                if let Some(byte) = input.get_mut(range.start) {
                    *byte ^= 1 << random.below(8);
                }
            }
            _ => {
                if let Some(byte) = input.get_mut(range.start) {
                    *byte = random.next() as u8;
                }
            }
        }
    }
    input
}

/// What this thread has used of a processor: how busy the machine is does not count.
fn processor_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(used.tv_sec.cast_unsigned(), used.tv_nsec as u32)
}

/// Runs `target` on the seeds and on mutations of them.
pub(crate) fn fuzz(name: &str, seeds: &[Vec<u8>], target: impl Fn(&[u8])) {
    let number = |variable: &str| std::env::var(variable).ok().and_then(|text| text.parse::<u64>().ok());
    let seconds = number("TARE_FUZZ_SECONDS").map(Duration::from_secs);
    let seed = number("TARE_FUZZ_SEED").unwrap_or(1);
    let begin = Instant::now();
    let mut count = 0_u64;
    for round in seed.. {
        if seconds.map_or(count >= SHORT, |limit| begin.elapsed() >= limit) {
            break;
        }
        let mut random = Random(round.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let input = seeds.get(count as usize).cloned().unwrap_or_else(|| mutate(&mut random, seeds));
        let start = processor_time();
        let outcome = catch_unwind(AssertUnwindSafe(|| target(&input)));
        let text = input.escape_ascii();
        assert!(outcome.is_ok(), "{name}: TARE_FUZZ_SEED={round} fails on:\n{text}");
        let took = processor_time().saturating_sub(start);
        assert!(took < SLOW, "{name}: TARE_FUZZ_SEED={round} takes {took:?} on:\n{text}");
        count += 1;
    }
    println!("{name}: {count} inputs from seed {seed} in {:?}", begin.elapsed());
}
