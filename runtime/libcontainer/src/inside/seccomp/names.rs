//! System calls by name and number, for all conventions of a machine at once.
//!
//! The tables are made when this is compiled, from those of the crate `syscalls`: at run time a name costs one hash and
//! one comparison, and a convention's calls are already in the order of their numbers, which the compiler walks along.

/// More than the names of any machine; a table that does not fit fails the build.
const NAMES: usize = 560;
/// A power of two, so large that a search seldom goes past its first slot.
const SLOTS: usize = 2048;

/// The distinct names of a machine's calls. A name is spoken of by its place.
pub(super) struct Names {
    text: [&'static str; NAMES],
    len: u16,
    // Place + 1 by hash, with linear probing; 0 is free.
    slots: [u16; SLOTS],
}

/// One convention's calls as (number, place of the name), by ascending number.
pub(super) struct Calls {
    list: [(u32, u16); NAMES],
    len: usize,
}

/// All that is known of a machine.
pub(super) struct Tables<const ABIS: usize> {
    pub(super) names: Names,
    pub(super) calls: [Calls; ABIS],
}

/// The place of `socketcall`, the call that carries others; see [`Names::new`].
pub(super) const SOCKETCALL: usize = 32;
/// The place of `ipc`, the other one.
pub(super) const IPC: usize = SOCKETCALL + 1;

/// Calls that i386 also takes through another call: their name, that call, and its first argument then
/// (`linux/net.h`, `linux/ipc.h`).
const CARRIED: [(&str, usize, u32); SOCKETCALL] = [
    ("socket", SOCKETCALL, 1),
    ("bind", SOCKETCALL, 2),
    ("connect", SOCKETCALL, 3),
    ("listen", SOCKETCALL, 4),
    ("accept", SOCKETCALL, 5),
    ("getsockname", SOCKETCALL, 6),
    ("getpeername", SOCKETCALL, 7),
    ("socketpair", SOCKETCALL, 8),
    ("send", SOCKETCALL, 9),
    ("recv", SOCKETCALL, 10),
    ("sendto", SOCKETCALL, 11),
    ("recvfrom", SOCKETCALL, 12),
    ("shutdown", SOCKETCALL, 13),
    ("setsockopt", SOCKETCALL, 14),
    ("getsockopt", SOCKETCALL, 15),
    ("sendmsg", SOCKETCALL, 16),
    ("recvmsg", SOCKETCALL, 17),
    ("accept4", SOCKETCALL, 18),
    ("recvmmsg", SOCKETCALL, 19),
    ("sendmmsg", SOCKETCALL, 20),
    ("semop", IPC, 1),
    ("semget", IPC, 2),
    ("semctl", IPC, 3),
    ("semtimedop", IPC, 4),
    ("msgsnd", IPC, 11),
    ("msgrcv", IPC, 12),
    ("msgget", IPC, 13),
    ("msgctl", IPC, 14),
    ("shmat", IPC, 21),
    ("shmdt", IPC, 22),
    ("shmget", IPC, 23),
    ("shmctl", IPC, 24),
];

/// Calls newer than the crate's tables. From number 403 on all architectures share their numbers.
const NEWER: [(&str, u32); 2] = [("listns", 470), ("rseq_slice_yield", 471)];

/// x32's own numbers of calls whose arguments need other layouts there, by ascending x86-64 number.
/// The kernel's `syscall_64.tbl` marks them `64` under the first number and `x32` under the second.
const X32_OWN: [(u32, u32); 36] = [
    (13, 512),
    (15, 513),
    (16, 514),
    (19, 515),
    (20, 516),
    (45, 517),
    (46, 518),
    (47, 519),
    (54, 541),
    (55, 542),
    (59, 520),
    (101, 521),
    (127, 522),
    (128, 523),
    (129, 524),
    (131, 525),
    (206, 543),
    (209, 544),
    (222, 526),
    (244, 527),
    (246, 528),
    (247, 529),
    (273, 530),
    (274, 531),
    (278, 532),
    (279, 533),
    (295, 534),
    (296, 535),
    (297, 536),
    (299, 537),
    (307, 538),
    (310, 539),
    (311, 540),
    (322, 545),
    (327, 546),
    (328, 547),
];

/// x86-64's numbers that x32 has under no number at all (`64` in `syscall_64.tbl`, long obsolete).
const NOT_X32: [u32; 11] = [134, 156, 174, 177, 178, 180, 205, 211, 214, 215, 236];

/// Numbers that only 32-bit architectures have; the crate's table for aarch64 lists them all the same.
const TIME64: std::ops::RangeInclusive<u32> = 403..=423;

/// The 32-bit arm kernel's private calls.
const ARM_PRIVATE: [(&str, u32); 6] = [
    ("breakpoint", 0xf_0001),
    ("cacheflush", 0xf_0002),
    ("usr26", 0xf_0003),
    ("usr32", 0xf_0004),
    ("set_tls", 0xf_0005),
    ("get_tls", 0xf_0006),
];

impl Names {
    const fn new() -> Self {
        let mut names = Self { text: [""; NAMES], len: 0, slots: [0; SLOTS] };
        // These come first, so that their places are known.
        let mut i = 0;
        while i < CARRIED.len() {
            names.intern(CARRIED[i].0);
            i += 1;
        }
        assert!(names.intern("socketcall") as usize == SOCKETCALL, "a name is there twice");
        assert!(names.intern("ipc") as usize == IPC, "a name is there twice");
        names
    }

    /// The name's place, a new one where it has none.
    const fn intern(&mut self, name: &'static str) -> u16 {
        let mut slot = slot(name);
        while self.slots[slot] != 0 {
            let place = self.slots[slot] - 1;
            if same(self.text[place as usize], name) {
                return place;
            }
            slot = (slot + 1) % SLOTS;
        }
        self.text[self.len as usize] = name;
        self.len += 1;
        self.slots[slot] = self.len;
        self.len - 1
    }

    /// The place of a name that some convention of this machine has.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        let mut slot = slot(name);
        while self.slots[slot] != 0 {
            let place = usize::from(self.slots[slot] - 1);
            if self.text[place] == name {
                return Some(place);
            }
            slot = (slot + 1) % SLOTS;
        }
        None
    }

    /// How many places there are.
    pub(super) fn len(&self) -> usize {
        usize::from(self.len)
    }
}

impl Calls {
    const fn new() -> Self {
        Self { list: [(0, 0); NAMES], len: 0 }
    }

    const fn push(&mut self, number: u32, place: u16) {
        assert!(self.len == 0 || self.list[self.len - 1].0 < number, "numbers must ascend");
        self.list[self.len] = (number, place);
        self.len += 1;
    }

    const fn push_all(&mut self, names: &mut Names, calls: &[(&'static str, u32)]) {
        let mut i = 0;
        while i < calls.len() {
            self.push(calls[i].1, names.intern(calls[i].0));
            i += 1;
        }
    }

    /// (number, place of the name), by ascending number.
    pub(super) fn all(&self) -> &[(u32, u16)] {
        &self.list[..self.len]
    }
}

/// The calls that `socketcall` or `ipc`, by its place, carries: their places, and its first argument then.
pub(super) fn carried(by: usize) -> impl Iterator<Item = (usize, u32)> {
    CARRIED.iter().enumerate().filter(move |(_, call)| call.1 == by).map(|(place, call)| (place, call.2))
}

/// The crate's table of one architecture, with what it lacks.
macro_rules! calls {
    ($names:expr, $arch:ident) => {{
        use syscalls::$arch::Sysno;
        let mut calls = Calls::new();
        let mut number = 0;
        while number <= Sysno::last().id() as u32 {
            if let Some(call) = Sysno::new(number as usize) {
                if let Some(name) = field_name(call.name(), stringify!($arch), number) {
                    calls.push(number, $names.intern(name));
                }
            }
            number += 1;
        }
        calls.push_all(&mut $names, &NEWER);
        calls
    }};
}

pub(super) static X86: Tables<3> = {
    let mut names = Names::new();
    let native = calls!(names, x86_64);
    let i386 = calls!(names, x86);
    let x32 = x32(&native);
    Tables { names, calls: [native, x32, i386] }
};

pub(super) static ARM64: Tables<2> = {
    let mut names = Names::new();
    let native = calls!(names, aarch64);
    let mut arm = calls!(names, arm);
    arm.push_all(&mut names, &ARM_PRIVATE);
    Tables { names, calls: [native, arm] }
};

/// The name that the kernel's headers give a call, where the crate's differs; nothing for a call that does not exist.
const fn field_name(name: &'static str, arch: &str, number: u32) -> Option<&'static str> {
    // The crate has a raw identifier where the name is a keyword.
    if same(name, "r#break") {
        return Some("break");
    }
    if same(arch, "aarch64") {
        if same(name, "fstatat") {
            return Some("newfstatat");
        }
        if number >= *TIME64.start() && number <= *TIME64.end() {
            return None;
        }
    }
    Some(name)
}

/// x32's numbers, without the bit: x86-64's, but for those that moved or are missing.
const fn x32(native: &Calls) -> Calls {
    let mut calls = Calls::new();
    let mut moved = [0; X32_OWN.len()];
    let mut i = 0;
    while i < native.len {
        let (number, place) = native.list[i];
        if let Some(own) = position(&X32_OWN, number) {
            // Its own numbers lie above all others: keep them for afterwards, in their order.
            moved[(X32_OWN[own].1 - 512) as usize] = place;
        } else if !contains(&NOT_X32, number) {
            calls.push(number, place);
        }
        i += 1;
    }
    i = 0;
    while i < moved.len() {
        calls.push(512 + i as u32, moved[i]);
        i += 1;
    }
    calls
}

const fn position(pairs: &[(u32, u32)], number: u32) -> Option<usize> {
    let mut i = 0;
    while i < pairs.len() {
        if pairs[i].0 == number {
            return Some(i);
        }
        i += 1;
    }
    None
}

const fn contains(numbers: &[u32], number: u32) -> bool {
    let mut i = 0;
    while i < numbers.len() {
        if numbers[i] == number {
            return true;
        }
        i += 1;
    }
    false
}

const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

/// FNV-1a, folded onto the slots.
const fn slot(name: &str) -> usize {
    let bytes = name.as_bytes();
    let mut hash: u32 = 0x811c_9dc5;
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u32).wrapping_mul(0x0100_0193);
        i += 1;
    }
    (hash ^ (hash >> 16)) as usize % SLOTS
}
