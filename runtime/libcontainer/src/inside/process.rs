//! The process that a container runs, first (`create`) or further (`exec`): as data, and as the steps that init takes to
//! become it.

use super::{
    command::{self, Command},
    descriptors,
    identity::{self, CapSets},
    memory_policy::MemoryPolicy,
    procfs::Procfs,
    seccomp::{self, Filter},
    selinux,
};
use crate::{
    error::{At, Error, Result},
    outside::affinity::Affinity,
    outside::limits::{Limit, limits},
    spec::{ConsoleSize, IoClass, IoPriority, Linux, Process, Scheduler, User},
    sys::{self, SchedAttr},
};
use rustix::{fd::OwnedFd, io::Errno, thread::CapabilitySet};
use std::path::PathBuf;

/// Everything about the process, checked.
pub(crate) struct ProcessPlan {
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) cwd: PathBuf,
    pub(crate) user: User,
    pub(crate) terminal: bool,
    pub(crate) console_size: Option<ConsoleSize>,
    /// Set from outside.
    pub(crate) limits: Vec<Limit>,
    /// Set from outside.
    pub(crate) oom_score_adj: Option<i32>,
    /// Set from outside, of what `exec` runs.
    pub(crate) affinity: Affinity,
    pub(crate) selinux_label: String,
    personality: Option<u64>,
    memory_policy: Option<MemoryPolicy>,
    /// Whether the cgroup has less than all processors.
    fewer_cpus: bool,
    caps: CapSets,
    no_new_privileges: bool,
    apparmor_profile: String,
    io_priority: Option<(u16, u16)>,
    scheduler: Option<SchedAttr>,
    filter: Option<Filter>,
}

/// What is left to do once `start` has been given.
pub(crate) struct Poised {
    command: Command,
    // Loaded last, so that a profile need not allow what we still do.
    late_filter: Option<Filter>,
}

impl ProcessPlan {
    /// Checks and translates `process` and what of the container's configuration concerns each of its processes.
    pub(crate) fn of(process: &Process, linux: &Linux) -> Result<Self> {
        if process.args.is_empty() {
            return Err(Error::invalid("process.args", "must not be empty"));
        }
        if !process.cwd.is_absolute() {
            return Err(Error::invalid(
                "process.cwd",
                format!("{:?} must be an absolute path", process.cwd.display().to_string()),
            ));
        }
        check_ids(&process.user)?;
        if let Some(value) = process.oom_score_adj
            && !(-1000..=1000).contains(&value)
        {
            return Err(Error::invalid("process.oomScoreAdj", format!("{value} is not between -1000 and 1000")));
        }
        selinux::check("process.selinuxLabel", &process.selinux_label)?;
        let filter = linux.seccomp.as_ref().map(seccomp::compile).transpose()?;
        if let Some(filter) = &filter {
            tracing::debug!("seccomp filter flags: {}", filter.flags);
        }
        Ok(Self {
            args: process.args.clone(),
            env: process.env.clone(),
            cwd: process.cwd.clone(),
            user: process.user.clone(),
            terminal: process.terminal,
            console_size: process.console_size,
            limits: limits(&process.rlimits)?,
            oom_score_adj: process.oom_score_adj,
            affinity: Affinity::of(process.exec_cpu_affinity.as_ref())?,
            selinux_label: process.selinux_label.clone(),
            personality: personality(linux)?,
            memory_policy: linux.memory_policy.as_ref().map(MemoryPolicy::of).transpose()?,
            fewer_cpus: !linux.resources.cpu.cpus.is_empty(),
            caps: CapSets::of(process.capabilities.as_ref()),
            no_new_privileges: process.no_new_privileges,
            apparmor_profile: process.apparmor_profile.clone(),
            io_priority: process.io_priority.as_ref().map(io_priority).transpose()?,
            scheduler: process.scheduler.as_ref().map(scheduler).transpose()?,
            filter,
        })
    }

    /// A terminal needs somewhere to go, and nothing goes there without one.
    pub(crate) fn check_console(&self, console: Option<&OwnedFd>) -> Result<()> {
        match (self.terminal, console) {
            (true, None) => Err(Error::invalid(
                "process.terminal",
                "cannot allocate tty if runtime will detach without setting console socket (--console-socket)",
            )),
            (false, Some(_)) => Err(Error::invalid(
                "process.terminal",
                "cannot use console socket if runtime will not detach or allocate tty",
            )),
            _ => Ok(()),
        }
    }

    /// Whether a profile or a label is to be applied.
    pub(crate) fn has_profile(&self) -> bool {
        !self.apparmor_profile.is_empty() || !self.selinux_label.is_empty()
    }

    /// Has the next program run under the AppArmor profile and the SELinux label; what is cloned until then inherits that.
    pub(crate) fn apply_profile(&self, procfs: &Procfs) -> Result<()> {
        if !self.selinux_label.is_empty() {
            procfs
                .write("self/attr/exec", &self.selinux_label)
                .at_with(|| format!("apply selinux label {:?}", self.selinux_label))?;
        }
        if self.apparmor_profile.is_empty() {
            return Ok(());
        }
        // With one security module the general file serves; with several, AppArmor has its own.
        let profile = format!("exec {}", self.apparmor_profile);
        procfs
            .write("self/attr/apparmor/exec", &profile)
            .or_else(|_| procfs.write("self/attr/exec", &profile))
            .at_with(|| format!("apply apparmor profile {:?}", self.apparmor_profile))
    }

    /// Becomes the process in everything but the program. A seccomp filter with a notification descriptor is loaded last, and
    /// that goes to `give_listener` at once: calls after that may wait for who has it.
    pub(crate) fn assume(
        mut self,
        may_set_groups: bool,
        keep_fds: u32,
        give_listener: impl FnOnce(OwnedFd) -> Result<()>,
    ) -> Result<Poised> {
        if let Some(attr) = self.scheduler {
            sys::set_scheduler(attr).map_err(|errno| match errno {
                // sched_setattr(2): some policies want all processors of the machine.
                Errno::PERM if self.fewer_cpus => {
                    Error::invalid("process.scheduler", "process scheduler can't be used together with AllowedCPUs")
                }
                errno => Error::from(errno).at("process.scheduler"),
            })?;
        }
        if let Some(domain) = self.personality {
            sys::set_personality(domain).at("linux.personality")?;
        }
        if let Some(policy) = &self.memory_policy {
            policy.apply()?;
        }
        if let Some((class, level)) = self.io_priority {
            sys::set_io_priority(class, level).at("process.ioPriority")?;
        }
        descriptors::hand_over(keep_fds)?;
        if self.no_new_privileges {
            rustix::thread::set_no_new_privs(true).at("set no_new_privs")?;
        }
        // The user may be barred from the directory that root can go to, or the other way round on a network share.
        let went = match command::change_directory(&self.cwd) {
            Err(error) if error.errno() == Some(Errno::ACCESS.raw_os_error()) => false,
            went => went.map(|()| true)?,
        };
        identity::own_standard_streams(self.user.uid)?;
        let environment = command::environment(&self.env, self.user.uid);
        // Loading takes CAP_SYS_ADMIN where no_new_privs is not set. The program does not get it: until then nobody else runs.
        let admin = if self.filter.is_some() && !self.no_new_privileges {
            seccomp::may_load()?
        } else {
            CapabilitySet::empty()
        };
        identity::assume(&self.user, &self.caps, may_set_groups, admin)?;
        if !went {
            command::change_directory(&self.cwd)?;
        }
        let command = Command::find(&self.args, environment)?;
        if let Some(filter) = self.filter.take_if(|filter| filter.needs_listener) {
            filter.load().at("seccomp")?.map_or(Ok(()), give_listener)?;
        }
        Ok(Poised { command, late_filter: self.filter })
    }
}

impl Poised {
    /// From here on all that runs is under the filter: the startContainer hooks are the container's, too.
    pub(crate) fn enforce(&self) -> Result<()> {
        if let Some(filter) = &self.late_filter {
            filter.load().at("seccomp")?;
        }
        Ok(())
    }

    /// The program's environment.
    pub(crate) fn environment(&self) -> &[String] {
        &self.command.variables
    }

    /// Becomes the program; returns only the failure.
    pub(crate) fn execute(&self) -> Result<std::convert::Infallible> {
        self.command.execute()
    }
}

/// The largest number means "no change" to the kernel.
fn check_ids(user: &User) -> Result<()> {
    let groups = user.additional_gids.iter().map(|gid| ("additionalGids", *gid));
    match [("uid", user.uid), ("gid", user.gid)].into_iter().chain(groups).find(|(_, id)| *id == u32::MAX) {
        Some((name, id)) => Err(Error::invalid(format!("process.user.{name}"), format!("{id} is no id"))),
        None => Ok(()),
    }
}

fn io_priority(priority: &IoPriority) -> Result<(u16, u16)> {
    // ioprio_set(2): 8 levels a class.
    let level = u16::try_from(priority.priority).ok().filter(|level| *level < 8).ok_or_else(|| {
        Error::invalid("process.ioPriority.priority", format!("{} is not between 0 and 7", priority.priority))
    })?;
    let class = match priority.class {
        IoClass::RealTime => 1,
        IoClass::BestEffort => 2,
        IoClass::Idle => 3,
    };
    Ok((class, level))
}

fn personality(linux: &Linux) -> Result<Option<u64>> {
    let Some(personality) = &linux.personality else { return Ok(None) };
    if !personality.flags.is_empty() {
        tracing::warn!("linux.personality.flags: no flags are known, they are ignored");
    }
    // `sys/personality.h`
    match &*personality.domain {
        "LINUX" => Ok(Some(0)),
        "LINUX32" => Ok(Some(8)),
        other => Err(Error::invalid("linux.personality.domain", format!("{other:?} is none of LINUX, LINUX32"))),
    }
}

fn scheduler(scheduler: &Scheduler) -> Result<SchedAttr> {
    check_scheduler(scheduler)?;
    // `linux/sched.h`
    let policy = match &*scheduler.policy {
        "SCHED_OTHER" => 0,
        "SCHED_FIFO" => 1,
        "SCHED_RR" => 2,
        "SCHED_BATCH" => 3,
        "SCHED_ISO" => 4,
        "SCHED_IDLE" => 5,
        "SCHED_DEADLINE" => 6,
        other => return Err(Error::invalid("process.scheduler.policy", format!("{other:?} is not known"))),
    };
    let mut flags = 0;
    for flag in &scheduler.flags {
        flags |= match &**flag {
            "SCHED_FLAG_RESET_ON_FORK" => 0x01,
            "SCHED_FLAG_RECLAIM" => 0x02,
            "SCHED_FLAG_DL_OVERRUN" => 0x04,
            "SCHED_FLAG_KEEP_POLICY" => 0x08,
            "SCHED_FLAG_KEEP_PARAMS" => 0x10,
            "SCHED_FLAG_UTIL_CLAMP_MIN" => 0x20,
            "SCHED_FLAG_UTIL_CLAMP_MAX" => 0x40,
            other => return Err(Error::invalid("process.scheduler.flags", format!("{other:?} is not known"))),
        };
    }
    let priority = u32::try_from(scheduler.priority)
        .map_err(|_| Error::invalid("process.scheduler.priority", "must not be negative"))?;
    let Scheduler { nice, runtime, deadline, period, .. } = *scheduler;
    Ok(SchedAttr { policy, flags, nice, priority, runtime, deadline, period })
}

/// Fields that the kernel would ignore for this policy, or cut (sched_setattr(2)).
fn check_scheduler(scheduler: &Scheduler) -> Result<()> {
    let Scheduler { policy, nice, priority, runtime, deadline, period, .. } = scheduler;
    let invalid = |field: &str, rule: String| Err(Error::invalid(format!("process.scheduler.{field}"), rule));
    match &**policy {
        "" => invalid("policy", "scheduler policy is required".into()),
        "SCHED_OTHER" | "SCHED_BATCH" if !(-20..=19).contains(nice) => {
            invalid("nice", format!("invalid scheduler.nice: {nice} when scheduler.policy is {policy}"))
        }
        "SCHED_FIFO" | "SCHED_RR" => Ok(()),
        _ if *priority != 0 => {
            invalid("priority", "scheduler.priority can only be specified for SchedFIFO or SchedRR policy".into())
        }
        "SCHED_DEADLINE" => Ok(()),
        _ if [runtime, deadline, period] != [&0; 3] => invalid(
            "runtime",
            "scheduler runtime/deadline/period can only be specified for SchedDeadline policy".into(),
        ),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(process: &str) -> String {
        let process: Process = crate::spec::parse(process.as_bytes()).unwrap();
        ProcessPlan::of(&process, &Linux::default()).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn refuses_what_cannot_run() {
        for (process, expected) in [
            (r#"{"cwd":"/"}"#, "process.args: must not be empty"),
            (r#"{"cwd":"","args":["a"]}"#, "process.cwd: \"\" must be an absolute path"),
            (r#"{"cwd":"/","args":["a"],"user":{"uid":4294967295}}"#, "process.user.uid: 4294967295 is no id"),
            (r#"{"cwd":"/","args":["a"],"user":{"additionalGids":[4294967295]}}"#, "process.user.additionalGids"),
            (r#"{"cwd":"/","args":["a"],"oomScoreAdj":2000}"#, "process.oomScoreAdj: 2000"),
            (r#"{"cwd":"/","args":["a"],"ioPriority":{"class":"IOPRIO_CLASS_RT","priority":8}}"#, "process.ioPriority"),
            (r#"{"cwd":"/","args":["a"],"scheduler":{"policy":"X"}}"#, "process.scheduler.policy: \"X\""),
            (r#"{"cwd":"/","args":["a"],"scheduler":{"policy":"SCHED_BATCH","nice":20}}"#, "process.scheduler.nice"),
            (r#"{"cwd":"/","args":["a"],"scheduler":{"policy":"SCHED_IDLE","priority":1}}"#, "process.scheduler.prio"),
            (r#"{"cwd":"/","args":["a"],"scheduler":{"policy":"SCHED_RR","priority":1,"period":1}}"#, ""),
            (
                r#"{"cwd":"/","args":["a"],"scheduler":{"policy":"SCHED_OTHER","period":1}}"#,
                "process.scheduler.runtime",
            ),
            (r#"{"cwd":"/","args":["a"],"execCPUAffinity":{"final":"3-1"}}"#, "process.execCPUAffinity.final: invalid"),
            (r#"{"cwd":"/","args":["a"],"selinuxLabel":"x"}"#, "process.selinuxLabel: selinux label is specified"),
            (r#"{"cwd":"/","args":["a"]}"#, ""),
        ] {
            assert!(refusal(process).starts_with(expected), "{process}: {}", refusal(process));
        }
    }
}
