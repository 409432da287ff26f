//! The text of `--help`.

/// What `--help` prints.
pub(super) const HELP: &str = "\
Usage:
  conmon [OPTION...]

Holds a container for Podman or CRI-O. This is the shim of Tare, which takes conmon's options.

  --api-version                   Speak the newer form of the pipes' messages
  -b, --bundle=DIR                Location of the OCI bundle
  -c, --cid=ID                    Identification of the container
  -P, --conmon-pidfile=FILE       Where to write conmon's own pid
  -p, --container-pidfile=FILE    Where the runtime is to write the container's pid
  -u, --cuuid=ID                  Container UUID
  -e, --exec                      Exec a command into a running container
  --exec-attach                   Attach to an exec session
  --exec-process-spec=FILE        The process to exec
  --exit-command=PROGRAM          What to run when the container has ended
  --exit-command-arg=ARG          Its arguments, one by one
  --exit-delay=SECONDS            How long to wait before that
  --exit-dir=DIR                  Where to write the exit status, in a file named like the container
  --full-attach                   Do not shorten the path of the attach socket
  --leave-stdin-open              Leave stdin open when a client disconnects
  -l, --log-path=DRIVER:PATH      k8s-file:PATH, journald, passthrough or none; may be repeated
  --log-global-size-max=BYTES     Write no more than this in all
  --log-label=LABEL=VALUE         A further field for the journal; may be repeated
  --log-level=LEVEL               error, warn, info, debug or trace
  --log-max-files=N               How many older files to keep with --log-rotate
  --log-rotate                    Keep older files when the log is full
  --log-size-max=BYTES            When a log file is full
  --log-tag=TAG                   Tag for the journal
  -n, --name=NAME                 Container name
  --no-container-partial-message  Do not mark pieces of long lines in the journal
  --no-new-keyring                Passed to the runtime
  --no-pivot                      Passed to the runtime
  --no-sync-log                   Do not sync logs after the container's end
  -0, --persist-dir=DIR           Where else to write the exit status, and oom
  --replace-listen-pid            Set LISTEN_PID to the runtime's pid
  --restore=DIR                   Restore the container from a checkpoint
  -r, --runtime=PROGRAM           The OCI runtime
  --runtime-arg=ARG               Global flags of the runtime, one by one
  --runtime-opt=ARG               Flags of its create, restore or exec, one by one
  --sdnotify-socket=PATH          Relay notifications to this socket
  --socket-dir-path=DIR           Where to link the bundle for short socket paths
  -i, --stdin                     Give the container a stdin
  --sync                          Stay the caller's child
  --syslog                        Complain in syslog too
  -s, --systemd-cgroup            Passed to the runtime
  -t, --terminal                  Give the container a terminal
  -T, --timeout=SECONDS           Kill the container after this time
  --version                       Print the version
";
