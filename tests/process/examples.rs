//! The examples, run as a user runs them: as programs, with real signals and external senders.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::Duration;

use ebbtide_testkit::child::beside_others;
use parking_lot::RwLockReadGuard;

/// The program of an example. cargo puts it beside the directory of this test.
fn example(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    let target = test.parent().and_then(Path::parent).expect("tests are in target/PROFILE/deps");
    let program = target.join("examples").join(name);
    assert!(program.exists(), "{program:?} is missing: run `cargo build --examples` first");
    Command::new(program)
}

fn run(name: &str, arguments: &[&str]) -> Output {
    let _others = beside_others();
    example(name).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap()
}

/// An example that runs until it is stopped. It is killed if the test fails before.
struct Server {
    child: Child,
    stdout: BufReader<ChildStdout>,
    _others: RwLockReadGuard<'static, ()>,
}

impl Server {
    fn start(name: &str, arguments: &[&str]) -> Self {
        let others = beside_others();
        let mut command = example(name);
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().expect("its output is piped"));
        Self { child, stdout, _others: others }
    }

    /// The next line that it prints. Empty if it ends.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// The address in its next line, such as `listening on udp 127.0.0.1:8125`.
    fn address(&mut self) -> String {
        self.line().split(' ').next_back().expect("a split has a last part").to_owned()
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let kill = Command::new("sh").args(["-c", "kill -s $0 $1", name, &pid]).status();
        assert!(kill.unwrap().success());
    }

    /// Stops the process, and waits until it has stopped.
    fn stop(&self) {
        self.signal("STOP");
        let stat = format!("/proc/{}/stat", self.child.id());
        for _ in 0..10_000 {
            if fs::read_to_string(&stat).unwrap().contains(") T ") {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
        panic!("SIGSTOP does not stop the process");
    }

    /// The rest of its output, and its exit status.
    fn end(mut self) -> (String, ExitStatus) {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        (rest, self.child.wait().unwrap())
    }

    /// The error with which it refuses to run. Fails at once if it runs.
    fn refusal(mut self) -> String {
        assert_eq!(self.line(), "", "the example refuses to run");
        assert_eq!(self.child.wait().unwrap().code(), Some(2));
        io::read_to_string(self.child.stderr.take().expect("its output is piped")).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // This fails only if the program has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A path for a socket that no other test uses.
fn socket_path(what: &str) -> PathBuf {
    std::env::temp_dir().join(format!("ebbtide-{what}-{}.sock", std::process::id()))
}

fn connected_to(path: &Path) -> UnixDatagram {
    let socket = UnixDatagram::unbound().unwrap();
    socket.connect(path).unwrap();
    socket
}

#[test]
fn packet_counter_loses_nothing() {
    let output = run("packet_counter", &[]);
    assert_eq!(
        text(&output.stdout),
        "unix  tx 1000  rx 1000  lost 0\nudp   tx 1000  rx 1000  lost 0\n"
    );
    assert!(output.status.success());
}

/// A loss of zero, as above, proves nothing if no datagram is queued when the program ends.
#[test]
fn packet_counter_that_stops_at_once_loses_what_is_queued() {
    let output = run("packet_counter", &["--stop", "--transport", "unix"]);
    let (_, lost) =
        text(&output.stdout).trim_end().split_once("lost ").expect("the output names the loss");
    assert_ne!(lost.parse::<u64>(), Ok(0));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_wrong_option_ends_an_example_with_the_reason() {
    for (name, arguments, problem) in [
        ("packet_counter", &["--nonsense"][..], "unexpected argument '--nonsense'"),
        ("packet_counter", &["--messages", "many"], "invalid value 'many' for '--messages <N>'"),
        ("packet_counter", &["--transport", "tcp"], "[possible values: unix, udp, both]"),
        ("collector", &["--nonsense"], "unexpected argument '--nonsense'"),
        ("collector", &["--udp"], "a value is required for '--udp <ADDR>'"),
        ("collector", &["--unix", ""], "a value is required for '--unix <PATH>'"),
        ("collector", &[], "not provided:\n  <--udp <ADDR>|--unix <PATH>>"),
        ("echo", &["127.0.0.1:0", "127.0.0.1:0"], "unexpected argument '127.0.0.1:0'"),
    ] {
        let refusal = Server::start(name, arguments).refusal();
        assert!(refusal.contains(problem) && refusal.contains("try '--help'"), "{refusal}");
    }
}

#[test]
fn help_is_no_error() {
    for name in ["packet_counter", "collector", "echo"] {
        let output = run(name, &["--help"]);
        assert!(text(&output.stdout).contains(&format!("Usage: {name} ")), "{output:?}");
        assert!(output.status.success());
    }
}

/// Fails when the collector ends without a drain.
#[test]
fn collector_delivers_all_that_was_accepted_while_it_was_stopped() {
    let path = socket_path("stopped");
    for round in 0..20 {
        let mut collector = Server::start("collector", &["--unix", path.to_str().unwrap()]);
        collector.line();
        let sender = connected_to(&path);
        for _ in 0..100 {
            sender.send(b"early:1|c\nearly:2|c").unwrap();
        }
        collector.stop();
        sender.set_nonblocking(true).unwrap();
        let mut accepted = 100;
        let refusal = loop {
            match sender.send(b"late:1|c\nlate:2|c") {
                Ok(_) => accepted += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(refusal.kind(), io::ErrorKind::WouldBlock, "the queue is full");
        collector.signal("TERM");
        collector.signal("CONT");
        let (rest, status) = collector.end();
        let total = format!("received {accepted} datagrams, {} lines\n", 2 * accepted);
        assert!(rest.contains(&total), "round {round}: not {total} but {rest}");
        assert!(rest.contains(&format!("delivered {accepted}, undelivered 0")), "{rest}");
        assert!(status.success());
    }
}

#[test]
fn collector_counts_the_lines_of_each_metric_on_both_sockets() {
    let path = socket_path("metrics");
    let arguments = ["--udp", "127.0.0.1:0", "--unix", path.to_str().unwrap()];
    let mut collector = Server::start("collector", &arguments);
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.connect(collector.address()).unwrap();
    collector.line();
    sender.send(b"hits:1|c\nhits:1|c\n\nhits:1|c").unwrap();
    connected_to(&path).send(b"<13>Nov 23 06:44:21 me: hello\n<13>Nov 23 06:44:22 me: x").unwrap();
    connected_to(&path).send(b"").unwrap();
    connected_to(&path).send(b"without a metric\n").unwrap();
    // One line a second. The first may come before the datagrams.
    let lines = (0..10).map(|_| collector.line()).find(|line| line.starts_with("4 datagrams"));
    let line = lines.expect("the live line counts all of them");
    assert!(line.starts_with("4 datagrams, 6 lines, "), "{line}");
    assert!(line.ends_with(" lines/s, hits 3, syslog 2, other 1"), "{line}");
    collector.signal("INT");
    let (rest, status) = collector.end();
    assert!(rest.contains("received 4 datagrams, 6 lines\ndrained 2 sockets"), "{rest}");
    assert!(status.success());
}

#[test]
fn collector_removes_only_a_path_on_which_nobody_listens() {
    let path = socket_path("path");
    let arguments = ["--unix", path.to_str().unwrap()];
    drop(UnixDatagram::bind(&path).unwrap());
    let mut collector = Server::start("collector", &arguments);
    assert!(collector.line().starts_with("listening on unix"), "a stale socket is replaced");

    let refusal = Server::start("collector", &arguments).refusal();
    assert!(refusal.contains("in use"), "{refusal}");
    connected_to(&path).send(b"still:1|c").unwrap();
    collector.signal("TERM");
    assert!(collector.end().0.contains("received 1 datagrams, 1 lines"));
    assert!(!path.exists(), "the program removes its path");

    fs::write(&path, "precious").unwrap();
    Server::start("collector", &arguments).refusal();
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    fs::remove_file(&path).unwrap();
}

#[test]
fn collector_whose_output_nobody_reads_ends_quietly() {
    let _others = beside_others();
    let mut collector = example("collector");
    collector.args(["--udp", "127.0.0.1:0"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = collector.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let errors = text(&output.stderr);
    assert!(errors.starts_with("driver: ") && errors.lines().count() == 1, "{errors}");
    assert!(output.status.success());
}

#[test]
fn echo_answers_every_datagram_queued_before_it_is_told_to_end() {
    let mut echo = Server::start("echo", &["127.0.0.1:0"]);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(echo.address()).unwrap();
    echo.stop();
    for number in 0..100u8 {
        client.send(&[number]).unwrap();
    }
    echo.signal("TERM");
    echo.signal("CONT");
    let (_, status) = echo.end();
    assert!(status.success());
    client.set_nonblocking(true).unwrap();
    for number in 0..100 {
        let mut answer = [0; 2];
        assert_eq!(client.recv(&mut answer).unwrap(), 1);
        assert_eq!(answer[0], number);
    }
}
