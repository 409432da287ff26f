"""Prints the one seccomp filter of a process as the kernel has it, in hexadecimal. Argument: the process id."""
import ctypes
import os
import sys

SEIZE, INTERRUPT, DETACH, GET_FILTER = 0x4206, 0x4207, 17, 0x420C
pid = int(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def ptrace(request, address=None, data=None):
    result = libc.ptrace(request, pid, address, data)
    if result < 0:
        sys.exit(f"ptrace {request:#x}: {os.strerror(ctypes.get_errno())}")
    return result


ptrace(SEIZE)
ptrace(INTERRUPT)
os.waitpid(pid, 0x40000000)
program = ctypes.create_string_buffer(8 * ptrace(GET_FILTER))
ptrace(GET_FILTER, None, program)
sys.stdout.write(program.raw.hex())
ptrace(DETACH)
