use clap::Args;

// Limits by flag are strings or numbers as runc has them: an amount of memory may have a unit (`64m`), and 0 leaves a limit as
// it is. No doc comment: it would become the verb's help.
#[derive(Args, Default)]
pub(crate) struct Update {
    /// Read all limits from this file, `-` for standard input, and ignore the other flags. JSON, as linux.resources of config.json
    #[arg(short, long, value_name = "FILE")]
    pub(crate) resources: Option<String>,
    /// The weight in block I/O, 10 to 1000
    #[arg(long, value_name = "WEIGHT", allow_hyphen_values = true)]
    pub(crate) blkio_weight: Option<i64>,
    /// The period of the processor time limit, in microseconds
    #[arg(long, value_name = "USEC", allow_hyphen_values = true)]
    pub(crate) cpu_period: Option<String>,
    /// Processor time in each period, in microseconds; -1 for no limit
    #[arg(long, value_name = "USEC", allow_hyphen_values = true)]
    pub(crate) cpu_quota: Option<String>,
    /// Unused processor time that may be saved up, in microseconds
    #[arg(long, value_name = "USEC", allow_hyphen_values = true)]
    pub(crate) cpu_burst: Option<String>,
    /// The share of processor time where it is short (1024 is the default)
    #[arg(long, value_name = "SHARES", allow_hyphen_values = true)]
    pub(crate) cpu_share: Option<String>,
    /// The period of the real-time limit, in microseconds (cgroup v1)
    #[arg(long, value_name = "USEC", allow_hyphen_values = true)]
    pub(crate) cpu_rt_period: Option<String>,
    /// Real-time processor time in each period, in microseconds (cgroup v1)
    #[arg(long, value_name = "USEC", allow_hyphen_values = true)]
    pub(crate) cpu_rt_runtime: Option<String>,
    /// The processors to use (0-3,7)
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    pub(crate) cpuset_cpus: Option<String>,
    /// The memory nodes to use
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    pub(crate) cpuset_mems: Option<String>,
    /// 1 to run only when nobody else wants the processor (SCHED_IDLE), 0 not to
    #[arg(long, value_name = "0|1", allow_hyphen_values = true)]
    pub(crate) cpu_idle: Option<String>,
    /// The limit of memory, in bytes or with a unit; -1 for no limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(crate) memory: Option<String>,
    /// The memory to keep under pressure, in bytes or with a unit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(crate) memory_reservation: Option<String>,
    /// The limit of memory and swap together, in bytes or with a unit; -1 for no limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<String>,
    /// Ignored: kernels have no such limit any more
    #[arg(long, value_name = "BYTES", hide = true, allow_hyphen_values = true)]
    pub(crate) kernel_memory: Option<String>,
    /// Ignored: kernels have no such limit any more
    #[arg(long, value_name = "BYTES", hide = true, allow_hyphen_values = true)]
    pub(crate) kernel_memory_tcp: Option<String>,
    /// The number of processes and threads; -1 for no limit
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(crate) pids_limit: Option<i64>,
    /// The L3 cache schema of Intel RDT
    #[arg(long, value_name = "SCHEMA")]
    pub(crate) l3_cache_schema: Option<String>,
    /// The memory bandwidth schema of Intel RDT
    #[arg(long, value_name = "SCHEMA")]
    pub(crate) mem_bw_schema: Option<String>,
    /// The container's name
    #[arg(value_name = "CONTAINER-ID")]
    pub(crate) id: String,
}
