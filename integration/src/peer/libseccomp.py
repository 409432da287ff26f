"""Has libseccomp compile a profile, by the calls that runc makes.

Arguments: the library, the machine (x86_64 or aarch64). stdin: `linux.seccomp` as JSON. stdout: JSON with the library's
version, the programs as the kernel takes them in hexadecimal, per architecture the highest number that the profile names,
and the names that the library does not know.
"""
import ctypes
import json
import os
import sys

library, machine = sys.argv[1:]
profile = json.load(sys.stdin)
lib = ctypes.CDLL(library, use_errno=True)


class Version(ctypes.Structure):
    _fields_ = [("major", ctypes.c_uint), ("minor", ctypes.c_uint), ("micro", ctypes.c_uint)]


class Condition(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


lib.seccomp_version.restype = ctypes.POINTER(Version)
lib.seccomp_init.restype = ctypes.c_void_p
lib.seccomp_init.argtypes = [ctypes.c_uint32]
lib.seccomp_arch_resolve_name.restype = ctypes.c_uint32
for name, rest in [
    ("seccomp_arch_add", [ctypes.c_uint32]),
    ("seccomp_arch_remove", [ctypes.c_uint32]),
    ("seccomp_attr_set", [ctypes.c_int, ctypes.c_uint32]),
    ("seccomp_export_bpf", [ctypes.c_int]),
    ("seccomp_rule_add_array", [ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(Condition)]),
]:
    getattr(lib, name).argtypes = [ctypes.c_void_p, *rest]
lib.seccomp_syscall_resolve_name_arch.argtypes = [ctypes.c_uint32, ctypes.c_char_p]

EEXIST, UNKNOWN, OPTIMIZE, NO_NEW_PRIVS = 17, -1, 8, 3
ACTIONS = {
    "SCMP_ACT_KILL": 0,
    "SCMP_ACT_KILL_THREAD": 0,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
OPERATORS = ["", "NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"]


def must(result, what, *allowed):
    if result < 0 and -result not in allowed:
        sys.exit(f"{what}: {os.strerror(-result)}")


def action(name, errno):
    data = 0
    if name in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        data = 1 if errno is None else errno
    return ACTIONS[name] | data


def token(architecture):
    return lib.seccomp_arch_resolve_name(architecture.removeprefix("SCMP_ARCH_").lower().encode())


native = "SCMP_ARCH_" + machine.upper()
architectures = [native] + [it for it in profile.get("architectures") or [] if it != native]
default = action(profile["defaultAction"], profile.get("defaultErrnoRet"))
context = lib.seccomp_init(default)
for architecture in architectures:
    must(lib.seccomp_arch_add(context, token(architecture)), architecture, EEXIST)
if machine != os.uname().machine:
    must(lib.seccomp_arch_remove(context, 0), "remove this machine's architecture")
rules = profile.get("syscalls") or []
must(lib.seccomp_attr_set(context, NO_NEW_PRIVS, 0), "no_new_privs")
if len(rules) > 8:
    must(lib.seccomp_attr_set(context, OPTIMIZE, 2), "optimise")

unknown, newest = [], {}
for rule in rules:
    given = rule.get("args") or []
    indexes = [it["index"] for it in given]
    every = [
        Condition(it["index"], OPERATORS.index(it["op"].removeprefix("SCMP_CMP_")), it["value"], it.get("valueTwo") or 0)
        for it in given
    ]
    # Two conditions on one argument: each is a rule of its own.
    ways = [every] if len(set(indexes)) == len(indexes) else [[it] for it in every]
    for name in rule["names"]:
        number = lib.seccomp_syscall_resolve_name(name.encode())
        if number == UNKNOWN:
            unknown.append(name)
            continue
        for architecture in architectures:
            there = lib.seccomp_syscall_resolve_name_arch(token(architecture), name.encode())
            if there >= 0:
                newest[architecture] = max(there, newest.get(architecture, 0))
        verdict = action(rule["action"], rule.get("errnoRet"))
        if verdict == default:
            continue
        for way in ways:
            result = lib.seccomp_rule_add_array(context, verdict, number, len(way), (Condition * len(way))(*way))
            must(result, f"{name} {rule}")

read, write = os.pipe()
if os.fork() == 0:
    os.close(read)
    must(lib.seccomp_export_bpf(context, write), "export")
    os._exit(0)
os.close(write)
with os.fdopen(read, "rb") as pipe:
    program = pipe.read()
os.wait()
version = lib.seccomp_version().contents
json.dump(
    {
        "version": f"{version.major}.{version.minor}.{version.micro}",
        "program": program.hex(),
        "newest": newest,
        "unknown": sorted(set(unknown)),
    },
    sys.stdout,
)
