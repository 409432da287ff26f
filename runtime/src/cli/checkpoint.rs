use clap::{Args, ValueEnum};
use std::path::PathBuf;

// What `checkpoint` and `restore` share; a doc comment would become the help of both.
#[derive(Args)]
pub(crate) struct Criu {
    /// The directory of criu's images [default: ./checkpoint]
    #[arg(long, value_name = "DIR")]
    pub(crate) image_path: Option<PathBuf>,
    /// The directory of criu's log and temporary files [default: one of the container's own, whose logs then go to the images]
    #[arg(long, value_name = "DIR")]
    pub(crate) work_path: Option<PathBuf>,
    /// Allow open TCP connections
    #[arg(long)]
    pub(crate) tcp_established: bool,
    /// Allow unix sockets that lead out of the container
    #[arg(long)]
    pub(crate) ext_unix_sk: bool,
    /// Allow the caller's terminal to be the container's
    #[arg(long)]
    pub(crate) shell_job: bool,
    /// Take file locks along
    #[arg(long)]
    pub(crate) file_locks: bool,
    /// What criu does with cgroups
    #[arg(long, value_name = "MODE")]
    pub(crate) manage_cgroups_mode: Option<CgroupsMode>,
    /// Make this namespace without its content; repeatable (network, which is always so)
    #[arg(long, value_name = "NAMESPACE")]
    pub(crate) empty_ns: Vec<String>,
    /// Keep each page in one image only
    #[arg(long)]
    pub(crate) auto_dedup: bool,
    /// Fetch pages when they are needed (userfaultfd)
    #[arg(long)]
    pub(crate) lazy_pages: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CgroupsMode {
    Soft,
    Full,
    Strict,
    Ignore,
}

#[derive(Args)]
pub(crate) struct Checkpoint {
    #[command(flatten)]
    pub(crate) criu: Criu,
    /// An earlier image, relative to this one, that has the unchanged memory
    #[arg(long, value_name = "DIR")]
    pub(crate) parent_path: Option<String>,
    /// Leave the container running
    #[arg(long)]
    pub(crate) leave_running: bool,
    /// Leave out TCP connections that are being made
    #[arg(long)]
    pub(crate) tcp_skip_in_flight: bool,
    /// Link unlinked files back where possible
    #[arg(long)]
    pub(crate) link_remap: bool,
    /// A descriptor that gets a zero byte when pages can be fetched
    #[arg(long, value_name = "FD", default_value_t = -1, hide_default_value = true, allow_negative_numbers = true)]
    pub(crate) status_fd: i32,
    /// Send the pages to this server
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) page_server: Option<String>,
    /// Memory only; the container goes on
    #[arg(long)]
    pub(crate) pre_dump: bool,
    /// The container's name
    #[arg(value_name = "CONTAINER-ID")]
    pub(crate) id: String,
}

#[derive(Args)]
pub(crate) struct Restore {
    #[command(flatten)]
    pub(crate) criu: Criu,
    /// The bundle's directory
    #[arg(short, long, value_name = "DIR", default_value = ".", hide_default_value = true)]
    pub(crate) bundle: PathBuf,
    /// A listening socket that receives the terminal's master
    #[arg(long, value_name = "SOCKET")]
    pub(crate) console_socket: Option<PathBuf>,
    /// Write init's pid to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Leave the container running
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Do not adopt orphans while waiting
    #[arg(long)]
    pub(crate) no_subreaper: bool,
    /// Use chroot instead of pivot_root; criu decides that for itself
    #[arg(long)]
    pub(crate) no_pivot: bool,
    /// The LSM profile to restore with (TYPE:NAME)
    #[arg(long, value_name = "PROFILE")]
    pub(crate) lsm_profile: Option<String>,
    /// The LSM mount context to restore with
    #[arg(long, value_name = "CONTEXT")]
    pub(crate) lsm_mount_context: Option<String>,
    /// The container's name
    #[arg(value_name = "CONTAINER-ID")]
    pub(crate) id: String,
}
