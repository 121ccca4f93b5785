//! Apache Kafka nodes of our own: broker and controller in one process, from Maven Central, on the loopback interface.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::until;
use crate::{Result, workspace};

const VERSION: &str = "3.9.1";

/// Enough for tests, and little enough to stand beside them.
const HEAP: &str = "-Xms128m -Xmx400m";

/// The password of the key store, of no worth, and of the only user.
const SECRET: &str = "busline-secret";

const START_MAX: Duration = Duration::from_secs(90);
const STOP_MAX: Duration = Duration::from_secs(30);

/// One node. Its ports follow one another: plain, controller, TLS, SASL over TLS.
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
        brokers().join(self.name)
    }

    /// Starts it and waits until it answers.
    pub(crate) fn start(&self) -> Result<()> {
        let directory = self.directory();
        self.stop()?;
        self.prepare(&directory)?;
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
        let mut child = server.spawn().map_err(|error| format!("cannot start Kafka: {error}"))?;
        self.wait(&mut child, &directory)
    }

    /// Stops it if it runs; a process that only has its old number is left alone.
    pub(crate) fn stop(&self) -> Result<()> {
        if let Some(pid) = self.running() {
            signal(pid, "TERM");
            if !until(STOP_MAX, || !self.is(pid)) {
                signal(pid, "KILL");
                if !until(STOP_MAX, || !self.is(pid)) {
                    return Err(format!("{} (process {pid}) cannot be stopped", self.name));
                }
            }
        }
        let _ = fs::remove_file(self.directory().join("pid"));
        Ok(())
    }

    /// The process that is this node, if it runs.
    pub(crate) fn running(&self) -> Option<u32> {
        let pid = fs::read_to_string(self.directory().join("pid")).ok()?.trim().parse().ok()?;
        self.is(pid).then_some(pid)
    }

    fn is(&self, pid: u32) -> bool {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let ours = self.directory().join("server.properties").display().to_string();
        String::from_utf8_lossy(&arguments).contains(&ours)
    }

    fn wait(&self, child: &mut Child, directory: &Path) -> Result<()> {
        let mut ended = None;
        let answered = until(START_MAX, || {
            ended = child.try_wait().ok().flatten();
            ended.is_some() || self.answers(directory)
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

    /// It listens a while before it may be spoken to.
    fn answers(&self, directory: &Path) -> bool {
        let started = || fs::read_to_string(directory.join("out.log")).unwrap_or_default();
        std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok()
            && started().contains("Kafka Server started")
    }

    /// Writes what it is configured by and the script that starts it, and formats its directory.
    fn prepare(&self, directory: &Path) -> Result<()> {
        let write = |name: &str, text: &str| {
            fs::write(directory.join(name), text)
                .map_err(|error| format!("cannot write {}/{name}: {error}", directory.display()))
        };
        fs::create_dir_all(directory)
            .map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
        write("server.properties", &self.configuration(directory))?;
        write("log4j.properties", LOGGING)?;
        write("server", &script(directory))?;
        write("ctl", &CTL.replace("HERE", &directory.display().to_string()))?;
        make_executable(&directory.join("server"))?;
        make_executable(&directory.join("ctl"))?;
        if !directory.join("ca.pem").exists() {
            certificate(directory)?;
        }
        // What earlier tests left would only be looked through by later ones.
        let _ = fs::remove_dir_all(directory.join("data"));
        format(directory)
    }

    /// Retention is looked after often and groups start at once: there are tests beside it.
    fn configuration(&self, directory: &Path) -> String {
        let (here, plain) = (directory.display(), self.port);
        let (controller, tls, sasl) = (plain + 1, plain + 2, plain + 3);
        format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             controller.listener.names=CONTROLLER\n\
             listeners=PLAINTEXT://127.0.0.1:{plain},CONTROLLER://127.0.0.1:{controller},SSL://127.0.0.1:{tls},SASL_SSL://127.0.0.1:{sasl}\n\
             inter.broker.listener.name=PLAINTEXT\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL\n\
             log.dirs={here}/data\n\
             ssl.keystore.location={here}/keys.p12\n\
             ssl.keystore.type=PKCS12\n\
             ssl.keystore.password={SECRET}\n\
             ssl.key.password={SECRET}\n\
             sasl.enabled.mechanisms=PLAIN\n\
             listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_tester=\"{SECRET}\";\n\
             offsets.topic.replication.factor=1\n\
             offsets.topic.num.partitions=4\n\
             transaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\n\
             group.initial.rebalance.delay.ms=0\n\
             group.min.session.timeout.ms=1000\n\
             log.retention.check.interval.ms=500\n\
             log.initial.task.delay.ms=500\n\
             log.segment.delete.delay.ms=500\n",
        )
    }
}

const LOGGING: &str = "log4j.rootLogger=WARN, out\n\
                       log4j.appender.out=org.apache.log4j.ConsoleAppender\n\
                       log4j.appender.out.layout=org.apache.log4j.PatternLayout\n\
                       log4j.appender.out.layout.ConversionPattern=%d %p %m (%c)%n\n\
                       log4j.logger.kafka.server.KafkaRaftServer=INFO\n";

/// For tests: `ctl stop`, `ctl kill` and `ctl start`, each of which waits until that is done.
const CTL: &str = "#!/bin/sh\n\
     set -eu\n\
     cd 'HERE'\n\
     gone() { i=0; while grep -q . \"/proc/$1/cmdline\" 2>/dev/null; do\n\
     i=$((i+1)); [ $i -lt 600 ] || exit 1; sleep 0.05; done; }\n\
     case \"$1\" in\n\
     stop) kill -TERM \"$(cat pid)\"; gone \"$(cat pid)\" ;;\n\
     kill) kill -KILL \"$(cat pid)\"; gone \"$(cat pid)\" ;;\n\
     start) : > out.log; setsid ./server > out.log 2>&1 < /dev/null &\n\
     i=0; until grep -q 'Kafka Server started' out.log; do\n\
     i=$((i+1)); [ $i -lt 1800 ] || exit 1; sleep 0.05; done ;;\n\
     *) exit 2 ;;\n\
     esac\n";

/// The process becomes Java's, so its number is known before.
fn script(directory: &Path) -> String {
    let (here, libs) = (directory.display(), libs());
    format!(
        "#!/bin/sh\n\
         echo $$ > '{here}/pid'\n\
         exec java {HEAP} -XX:+UseSerialGC -Djava.awt.headless=true \
         -Dlog4j.configuration='file:{here}/log4j.properties' \
         -cp '{}/*' kafka.Kafka '{here}/server.properties'\n",
        libs.display(),
    )
}

/// A key, and the certificate that says it is of this machine.
fn certificate(directory: &Path) -> Result<()> {
    let keys = directory.join("keys.p12");
    let _ = fs::remove_file(&keys);
    let store = |tool: &mut Command| {
        tool.arg("-keystore").arg(&keys).args(["-storetype", "PKCS12", "-storepass", SECRET]);
        tool.args(["-alias", "node"]);
    };
    let mut make = Command::new("keytool");
    make.args(["-genkeypair", "-keyalg", "EC", "-validity", "3650", "-dname", "CN=localhost"]);
    make.args(["-ext", "san=ip:127.0.0.1,dns:localhost"]);
    store(&mut make);
    output(&mut make)?;
    let mut export = Command::new("keytool");
    export.args(["-exportcert", "-rfc"]);
    store(&mut export);
    let pem = output(&mut export)?;
    fs::write(directory.join("ca.pem"), pem).map_err(|error| error.to_string())
}

fn format(directory: &Path) -> Result<()> {
    let mut format = Command::new("java");
    format.arg("-cp").arg(format!("{}/*", libs().display())).arg("kafka.tools.StorageTool");
    format.args(["format", "--cluster-id", "YnVzbGluZS10ZXN0cy1rYQ", "--config"]);
    output(format.arg(directory.join("server.properties"))).map(drop)
}

fn output(command: &mut Command) -> Result<Vec<u8>> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("cannot run {program}: {error}; {ADVICE}"))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} failed ({}): {}", output.status, said.trim()))
}

const ADVICE: &str = "Kafka needs Java 17 and Maven: \
                      install both, as by `apt-get install openjdk-17-jre-headless maven`";

/// Fetches the server where it is not there yet. It is kept under `target/brokers`.
pub(crate) fn install() -> Result<()> {
    let libs = libs();
    let marker = libs.join("complete");
    if marker.exists() {
        return Ok(());
    }
    programs()?;
    let fail = |error: std::io::Error| format!("cannot write {}: {error}", libs.display());
    fs::create_dir_all(&libs).map_err(fail)?;
    let pom = libs.join("pom.xml");
    fs::write(&pom, POM.replace("VERSION", VERSION)).map_err(fail)?;
    println!("broker kafka: fetching Apache Kafka {VERSION} from Maven Central");
    let mut maven = Command::new("mvn");
    maven.args(["--batch-mode", "--quiet", "--file"]).arg(&pom);
    maven.arg("org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies");
    maven.arg("-DincludeScope=runtime").arg(format!("-DoutputDirectory={}", libs.display()));
    output(&mut maven)?;
    fs::write(marker, VERSION).map_err(fail)
}

/// Java and Maven, installed where that is ours to do.
fn programs() -> Result<()> {
    let there = |program: &str| {
        let tried = Command::new(program).arg("-version").stderr(Stdio::null()).output();
        tried.is_ok_and(|output| output.status.success())
    };
    if there("java") && there("mvn") {
        return Ok(());
    }
    let id = Command::new("id").arg("-u").output().map_err(|error| error.to_string())?;
    if id.stdout != b"0\n" || !Path::new("/usr/bin/apt-get").exists() {
        return Err(ADVICE.to_owned());
    }
    let mut apt = Command::new("apt-get");
    apt.args(["install", "--yes", "--no-install-recommends", "default-jre-headless", "maven"]);
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    crate::shell::run(&mut apt).map_err(|error| format!("{error}; {ADVICE}"))
}

const POM: &str = r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>busline</groupId>
  <artifactId>kafka-for-tests</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>VERSION</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId>
      <artifactId>slf4j-reload4j</artifactId>
      <version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
"#;

fn brokers() -> PathBuf {
    workspace::root().join("target/brokers")
}

fn libs() -> PathBuf {
    brokers().join(format!("kafka-{VERSION}"))
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
