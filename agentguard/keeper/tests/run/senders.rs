//! Who sent what came over a connection: not always who made it.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use agentguard_keeper::packet::{self, receive, tell_senders};
use rustix::net::accept;

/// Connects, sends, and has a child of its own send too. Nobody has accepted it by then.
const CLIENT: &str = "import os, socket, sys
s = socket.socket(socket.AF_UNIX, getattr(socket, sys.argv[1]))
s.connect(sys.argv[2])
s.send(b'mine')
child = os.fork()
if child == 0:
    s.send(b'handed')
    os._exit(0)
os.waitpid(child, 0)
s.send(b'mine')
print(os.getpid(), child)
";

#[test]
fn each_piece_is_told_with_its_sender() {
    let directory = tempfile::tempdir().unwrap();
    for kind in ["SOCK_STREAM", "SOCK_SEQPACKET"] {
        let path = directory.path().join(kind);
        let listener: OwnedFd = if kind == "SOCK_STREAM" {
            let listener = UnixListener::bind(&path).unwrap();
            tell_senders(listener.as_fd()).unwrap();
            listener.into()
        } else {
            let listener = packet::listen(&path, 0o600).unwrap();
            listener.as_fd().try_clone_to_owned().unwrap()
        };
        let mut client = Command::new("python3");
        client.args(["-c", CLIENT, kind]).arg(&path);
        let client = client.stderr(Stdio::inherit()).output().unwrap();
        let told = String::from_utf8(client.stdout).unwrap();
        let told: Vec<u32> = told
            .split_whitespace()
            .map(|it| it.parse().unwrap())
            .collect();
        let (maker, child) = (told[0], told[1]);

        let connection = accept(&listener).unwrap();
        let mut heard = Vec::new();
        let mut bytes = [0; 64];
        loop {
            let piece = receive(connection.as_fd(), &mut bytes).unwrap();
            assert!(!piece.cut && piece.fds.is_empty(), "{piece:?}");
            if piece.bytes == 0 {
                break;
            }
            let text = String::from_utf8_lossy(&bytes[..piece.bytes]).into_owned();
            heard.push((text, piece.sender));
        }
        let expected = [("mine", maker), ("handed", child), ("mine", maker)];
        let expected = expected.map(|(text, pid)| (text.to_owned(), Some(pid)));
        assert_eq!(heard, expected, "{kind}");
    }
}
