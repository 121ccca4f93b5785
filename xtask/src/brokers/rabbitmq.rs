//! RabbitMQ nodes of our own: on their own ports, with their own data, on the loopback interface.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::until;
use crate::{Result, workspace};

/// Where Debian and others put the programs; the wrappers in the path insist on another user.
const HOMES: &[&str] = &["/usr/lib/rabbitmq/lib", "/opt/rabbitmq", "/usr/local/lib/rabbitmq"];

const START_MAX: Duration = Duration::from_secs(90);
const STOP_MAX: Duration = Duration::from_secs(30);

/// One node. Its ports follow one another: AMQP, management, distribution, epmd.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Node {
    /// Its name, and that of its directory.
    pub(crate) name: &'static str,
    /// The first of its ports.
    pub(crate) port: u16,
}

impl Node {
    /// Where everything of it is kept.
    pub(crate) fn directory(&self) -> PathBuf {
        workspace::root().join("target/brokers").join(self.name)
    }

    /// Starts it and waits until it answers.
    pub(crate) fn start(&self) -> Result<()> {
        let programs = programs().ok_or("RabbitMQ is not installed")?;
        let directory = self.directory();
        self.prepare(&directory, &programs)?;
        self.stop()?;
        let out = fs::File::create(directory.join("out.log")).map_err(|error| error.to_string())?;
        let errors = out.try_clone().map_err(|error| error.to_string())?;
        let mut server = Command::new(directory.join("server"));
        // A group of its own: it outlives this tool, and an interrupt is not for it.
        server
            .current_dir(&directory)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(errors);
        let mut child =
            server.spawn().map_err(|error| format!("cannot start rabbitmq-server: {error}"))?;
        self.wait(&mut child, &directory)
    }

    /// Stops it if it runs; a process that only has its old number is left alone.
    pub(crate) fn stop(&self) -> Result<()> {
        let directory = self.directory();
        if let Some(pid) = self.running() {
            // The file with the number goes first, the process later.
            signal(pid, "TERM");
            if !until(STOP_MAX, || !self.is(pid)) {
                signal(pid, "KILL");
                if !until(STOP_MAX, || !self.is(pid)) {
                    return Err(format!("{} (process {pid}) cannot be stopped", self.name));
                }
            }
        }
        let _ = fs::remove_file(directory.join("pid"));
        // Its name server has nobody left to serve; without one there is nothing to stop.
        let mut epmd = Command::new("epmd");
        epmd.args(["-port", &(self.port + 3).to_string(), "-kill"]);
        let _ = epmd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        Ok(())
    }

    /// The process that is this node, if it runs.
    pub(crate) fn running(&self) -> Option<u32> {
        let pid = fs::read_to_string(self.directory().join("pid")).ok()?.trim().parse().ok()?;
        self.is(pid).then_some(pid)
    }

    fn is(&self, pid: u32) -> bool {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let ours = self.directory().join("home").display().to_string();
        String::from_utf8_lossy(&arguments).contains(&ours)
    }

    fn wait(&self, child: &mut Child, directory: &Path) -> Result<()> {
        let mut ended = None;
        let answered = until(START_MAX, || {
            ended = child.try_wait().ok().flatten();
            ended.is_some() || self.answers()
        });
        if answered && ended.is_none() {
            return Ok(());
        }
        let printed = fs::read_to_string(directory.join("out.log")).unwrap_or_default();
        let mut why = match ended {
            Some(status) => format!("{} ended as it started: {status}", self.name),
            None => format!("{} does not answer after {START_MAX:?}", self.name),
        };
        for line in printed.lines().rev().take(12).collect::<Vec<_>>().iter().rev() {
            let _ = write!(why, "\n  {line}");
        }
        let _ = write!(why, "\n  more in {}", directory.display());
        self.stop()?;
        Err(why)
    }

    /// Whether both of its listeners are there: management comes after AMQP.
    fn answers(&self) -> bool {
        [self.port, self.port + 1]
            .into_iter()
            .all(|port| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok())
    }

    /// Writes what it is configured by, and two scripts: `server` starts it, `ctl` talks to it.
    fn prepare(&self, directory: &Path, programs: &Path) -> Result<()> {
        let write = |name: &str, text: &str| {
            fs::write(directory.join(name), text)
                .map_err(|error| format!("cannot write {}/{name}: {error}", directory.display()))
        };
        for part in ["data", "log", "home"] {
            fs::create_dir_all(directory.join(part))
                .map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
        }
        write("rabbitmq.conf", &self.configuration())?;
        write("plugins", "[rabbitmq_management].\n")?;
        for (script, program) in [("server", "rabbitmq-server"), ("ctl", "rabbitmqctl")] {
            write(script, &self.script(directory, &programs.join(program)))?;
            make_executable(&directory.join(script))?;
        }
        Ok(())
    }

    /// Figures are fresh and alarms are ours to raise; nothing is reachable from outside.
    fn configuration(&self) -> String {
        format!(
            "listeners.tcp.1 = 127.0.0.1:{}\n\
             management.tcp.ip = 127.0.0.1\n\
             management.tcp.port = {}\n\
             disk_free_limit.absolute = 50MB\n\
             vm_memory_high_watermark.absolute = 1GB\n\
             collect_statistics_interval = 500\n\
             log.file.level = info\n",
            self.port,
            self.port + 1,
        )
    }

    fn script(&self, directory: &Path, program: &Path) -> String {
        let here = directory.display();
        let (distribution, epmd) = (self.port + 2, self.port + 3);
        format!(
            "#!/bin/sh\n\
             export HOME='{here}/home' LANG=C.UTF-8\n\
             export RABBITMQ_NODENAME={}@localhost RABBITMQ_CONF_ENV_FILE=/dev/null\n\
             export RABBITMQ_MNESIA_BASE='{here}/data' RABBITMQ_LOG_BASE='{here}/log'\n\
             export RABBITMQ_PID_FILE='{here}/pid' RABBITMQ_CONFIG_FILE='{here}/rabbitmq.conf'\n\
             export RABBITMQ_ENABLED_PLUGINS_FILE='{here}/plugins'\n\
             export RABBITMQ_DIST_PORT={distribution}\n\
             export ERL_EPMD_PORT={epmd} ERL_EPMD_ADDRESS=127.0.0.1\n\
             # Idle schedulers sleep instead of spinning: there are tests beside it.\n\
             export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='+sbwt none +sbwtdcpu none +sbwtdio none \
             -kernel inet_dist_use_interface {{127,0,0,1}}'\n\
             exec '{}' \"$@\"\n",
            self.name,
            program.display(),
        )
    }
}

/// Installs the server where that is ours to do, and says what to do elsewhere.
pub(crate) fn install() -> Result<()> {
    if programs().is_some() {
        return Ok(());
    }
    let advice = "install RabbitMQ 3.10 or newer, as by `apt-get install rabbitmq-server`";
    let id = Command::new("id").arg("-u").output().map_err(|error| error.to_string())?;
    if id.stdout != b"0\n" || !Path::new("/usr/bin/apt-get").exists() {
        return Err(format!("RabbitMQ is not installed: {advice}"));
    }
    let mut apt = Command::new("apt-get");
    apt.args(["install", "--yes", "--no-install-recommends", "rabbitmq-server"]);
    // At this run level the package does not start a server on the usual ports.
    apt.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
    crate::shell::run(&mut apt).map_err(|error| format!("{error}; {advice}"))?;
    match programs() {
        Some(_) => Ok(()),
        None => Err(format!("RabbitMQ is installed and not found; {advice}")),
    }
}

/// The directory of `rabbitmq-server` and `rabbitmqctl`, of the newest version.
fn programs() -> Option<PathBuf> {
    let homes = HOMES.iter().flat_map(|home| {
        let entries = fs::read_dir(home).into_iter().flatten().flatten();
        let mut inner: Vec<_> = entries.map(|entry| entry.path()).collect();
        inner.sort();
        inner.into_iter().rev().chain([PathBuf::from(home)])
    });
    homes.map(|home| home.join("sbin")).find(|sbin| sbin.join("rabbitmq-server").exists())
}

fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .map_err(|error| format!("cannot make {} executable: {error}", path.display()))
}

fn signal(pid: u32, name: &str) {
    // It may have ended by itself meanwhile.
    let _ = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
}
