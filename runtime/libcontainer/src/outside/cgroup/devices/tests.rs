use super::{filter::program, *};
use crate::sys::bpf::Insn;

fn rule(text: &str) -> DeviceRule {
    // "+c 1:3 rwm" allows, "-" denies; "+a" leaves everything out.
    let (sign, rest) = text.split_at(1);
    let mut words = rest.split(' ');
    let kind = words.next().unwrap().to_owned();
    let number = |it: &str| (it != "*").then(|| it.parse().unwrap());
    let (major, minor) =
        words.next().map_or((None, None), |it| it.split_once(':').map(|(a, b)| (number(a), number(b))).unwrap());
    DeviceRule { allow: sign == "+", kind, major, minor, access: words.next().unwrap_or_default().to_owned() }
}

fn own_rules(texts: &[&str]) -> Vec<Rule> {
    texts.iter().map(|it| check(&rule(it)).unwrap()).collect()
}

/// Runs a program as the kernel would. Panics where the verifier would refuse.
fn run(program: &[Insn], kind: u32, access: u32, major: u32, minor: u32) -> bool {
    let mut registers = [0u64; 11];
    let mut at = 0usize;
    loop {
        let Insn { code, registers: names, offset, immediate } = program[at];
        let (to, from) = (usize::from(names & 15), usize::from(names >> 4));
        let (value, skip) = (immediate as u32, usize::try_from(offset));
        let low = registers[to] as u32;
        at += 1;
        match code {
            0x61 => {
                assert_eq!(from, 1, "loads come from the context");
                registers[to] = u64::from([access << 16 | kind, major, minor][usize::try_from(offset).unwrap() / 4]);
            }
            0xb4 => registers[to] = u64::from(value),
            0xbc => registers[to] = u64::from(registers[from] as u32),
            0x54 => registers[to] = u64::from(low & value),
            0x4c => registers[to] = u64::from(low | registers[from] as u32),
            0x64 => registers[to] = u64::from(low << value),
            0x74 => registers[to] = u64::from(low >> value),
            0x16 if low == value => at += skip.unwrap(),
            0x56 if low != value => at += skip.unwrap(),
            0x46 if low & value != 0 => at += skip.unwrap(),
            0x16 | 0x56 | 0x46 => {}
            0x95 => return registers[0] == 1,
            other => panic!("unknown instruction {other:#x}"),
        }
    }
}

/// What the rules mean, said without jumps: for each bit of the access the last rule that has it decides.
fn meant(rules: &[Rule], kind: Kind, access: u8, major: u32, minor: u32) -> bool {
    [MKNOD, READ, WRITE].into_iter().filter(|bit| access & bit != 0).all(|bit| {
        rules
            .iter()
            .rfind(|it| {
                it.access & bit != 0
                    && (it.kind == Kind::Any || it.kind == kind)
                    && it.major.is_none_or(|it| it == major)
                    && it.minor.is_none_or(|it| it == minor)
            })
            .is_some_and(|it| it.allow)
    })
}

const TABLES: [&[&str]; 12] = [
    &[],
    &["-a"],
    &["+a"],
    &["-a", "+c 1:11 rw"],
    &["+a", "-b 8:* rwm", "-c 1:3 w"],
    &["+c 1:* rwm", "-c 1:3 w", "+c *:3 r"],
    &["+c 1:3 r", "+c 1:3 w"],
    &["+a *:* r", "-c *:* m"],
    &["+c 1:3 rwm", "-a", "+b *:0 rw"],
    &["-a 1:3 r", "+a 1:3 rwm", "-a 1:3 r"],
    &["+a", "-a 8:1 rwm"],
    &["+c 4095:1048575 rwm", "+c 4096:0 rwm", "+b 0:1048576 rwm", "-c *:1048575 w"],
];

#[test]
fn the_program_does_what_the_rules_mean() {
    for table in TABLES {
        for rules in [own_rules(table), own_rules(table).into_iter().chain(DEFAULTS).collect()] {
            let program = program(&rules).unwrap();
            for (kind, number) in [(Kind::Block, 1), (Kind::Char, 2)] {
                for access in 1..=ALL {
                    for major in [0, 1, 5, 8, 10, 136, 4095] {
                        for minor in [0, 1, 2, 3, 11, 0xf_ffff] {
                            assert_eq!(
                                run(&program, number, access.into(), major, minor),
                                meant(&rules, kind, access, major, minor),
                                "{table:?}: {kind:?} {major}:{minor} access {access}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn every_instruction_can_be_reached_and_no_jump_leaves() {
    for table in TABLES {
        let program = program(&own_rules(table)).unwrap();
        let mut reached = vec![false; program.len()];
        let mut open = vec![0usize];
        while let Some(at) = open.pop() {
            if std::mem::replace(&mut reached[at], true) {
                continue;
            }
            let skip = at + 1 + usize::try_from(program[at].offset).unwrap();
            match program[at].code {
                0x95 => {}
                0x16 | 0x56 | 0x46 => open.extend([at + 1, skip]),
                _ => open.push(at + 1),
            }
        }
        assert!(reached.iter().all(|it| *it), "{table:?}: {program:?}");
    }
}

#[test]
fn more_rules_than_a_jump_can_skip_are_refused() {
    let rules = vec![check(&rule("+c 1:3 r")).unwrap(); 20_000];
    assert!(program(&rules).unwrap_err().to_string().starts_with("linux.resources.devices: more rules"));
}

#[test]
fn a_container_without_rules_gets_the_defaults_only() {
    let program = program(&Rules::of(&[]).unwrap().0).unwrap();
    let (block, char) = (1, 2);
    for (kind, access, major, minor, expected) in [
        (char, READ | WRITE, 1, 3, true),
        (char, READ, 136, 7, true),
        (char, READ | WRITE, 5, 2, true),
        (char, MKNOD, 200, 1, true),
        (block, MKNOD, 8, 0, true),
        (block, READ, 8, 0, false),
        (char, READ, 1, 1, false),
        (char, READ, 1, 11, false),
        (char, READ, 10, 200, false),
        (block, READ, 1, 3, false),
    ] {
        assert_eq!(run(&program, kind, access.into(), major, minor), expected, "{kind} {major}:{minor} {access}");
    }
}

#[test]
fn v1_lines() {
    for (table, allow, expected) in [
        (&["-a"][..], false, &[][..]),
        (&["-a", "+c 1:11 rw", "+b 8:0"], false, &["b 8:0 rwm", "c 1:11 rw"]),
        (&["+c 1:3 r", "+c 1:3 w", "-c 1:3 r"], false, &["c 1:3 w"]),
        (&["+a", "-b 8:* rwm", "-c 1:3 w"], true, &["b 8:* rwm", "c 1:3 w"]),
        (&["+a", "-b 8:* rwm", "+b 8:* rwm"], true, &[]),
        (&["+a *:* r"], false, &["b *:* r", "c *:* r"]),
        (&["-c 1:11 rwa"], false, &[]),
        (&["+c 5:1 rwa"], false, &["c 5:1 rwm"]),
    ] {
        let exceptions = Exceptions::of(&own_rules(table)).unwrap();
        assert_eq!(
            (exceptions.allow, exceptions.lines()),
            (allow, expected.iter().map(|&it| it.to_owned()).collect()),
            "{table:?}"
        );
    }
}

#[test]
fn v1_refuses_what_the_kernel_would_silently_ignore() {
    for table in [&["+c 1:* rwm", "-c 1:3 w"][..], &["+c *:* m", "-c 5:1 rwm"], &["+a", "-b 8:* rwm", "+b 8:1 r"]] {
        let text = Exceptions::of(&own_rules(table)).unwrap_err().to_string();
        assert!(text.starts_with("linux.resources.devices: ") && text.contains("cannot punch hole"), "{text}");
    }
}

#[test]
fn refuses_rules_that_are_none() {
    for (bad, expected) in [
        (rule("+x 1:1 r"), "linux.resources.devices[1].type: "),
        (rule("+c 1:1 rx"), "linux.resources.devices[1].access: "),
        (rule("+c -2:1 r"), "linux.resources.devices[1].major: "),
        (rule("+c 1:4294967296 r"), "linux.resources.devices[1].minor: "),
    ] {
        let text = Rules::of(&[rule("-a"), bad]).unwrap_err().to_string();
        assert!(text.starts_with(expected), "{text}");
    }
}
