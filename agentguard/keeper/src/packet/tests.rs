use super::*;
use std::io::Read;

fn is_cloexec(fd: &OwnedFd) -> bool {
    rustix::io::fcntl_getfd(fd)
        .unwrap()
        .contains(rustix::io::FdFlags::CLOEXEC)
}

fn raw(end: &Packet, bytes: &[u8]) {
    net::send(&end.socket, bytes, SendFlags::empty()).unwrap();
}

#[test]
fn a_message_arrives_with_its_descriptors_and_the_end_is_seen() {
    let (a, b) = pair().unwrap();
    let (mut reader, writer) = io::pipe().unwrap();
    a.send(&("hello", 7_u32), &[writer.as_fd(), a.as_fd()])
        .unwrap();
    drop(writer);
    let (message, fds): ((String, u32), _) = b.recv().unwrap().unwrap();
    assert_eq!(message, ("hello".to_owned(), 7));
    assert_eq!(fds.len(), 2);
    assert!(fds.iter().all(is_cloexec));
    drop((fds, a));
    // The write end travelled and is closed: so the pipe is at its end.
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    assert!(b.recv::<u32>().unwrap().is_none());
}

#[test]
fn what_is_not_one_whole_message_is_refused_and_the_next_one_still_read() {
    let (a, b) = pair().unwrap();
    raw(&a, &[1, 2]);
    assert!(matches!(b.recv::<u8>(), Err(PacketError::Surplus(1))));
    raw(&a, &[0x80]);
    assert!(matches!(b.recv::<u32>(), Err(PacketError::Malformed(_))));
    raw(&a, &vec![0; MAX_BYTES + 1]);
    assert!(matches!(b.recv::<u8>(), Err(PacketError::Truncated)));
    // A string that claims to be 4 GiB long.
    raw(&a, &[0xff, 0xff, 0xff, 0xff, 0x0f, b'x']);
    assert!(matches!(b.recv::<String>(), Err(PacketError::Malformed(_))));
    a.send(&3_u8, &[]).unwrap();
    assert_eq!(b.recv::<u8>().unwrap().unwrap().0, 3);
}

#[test]
fn surplus_descriptors_are_closed() {
    let (a, b) = pair().unwrap();
    let (mut reader, writer) = io::pipe().unwrap();
    for count in [MAX_FDS + 1, MAX_FDS + 3, 200] {
        let fds = vec![writer.as_fd(); count];
        assert!(matches!(
            a.send(&1_u8, &fds),
            Err(PacketError::DoesNotFit { .. })
        ));
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(200))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        let bytes = [IoSlice::new(&[1])];
        net::sendmsg(&a.socket, &bytes, &mut control, SendFlags::empty()).unwrap();
        assert!(matches!(b.recv::<u8>(), Err(PacketError::Truncated)));
    }
    drop(writer);
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
}

#[test]
fn last_words_are_heard_though_the_peer_left_ours_unread() {
    let (a, b) = pair().unwrap();
    a.send(&1_u8, &[]).unwrap();
    b.send(&2_u8, &[]).unwrap();
    drop(b);
    assert_eq!(a.recv::<u8>().unwrap().unwrap().0, 2);
    assert!(a.recv::<u8>().unwrap().is_none());
}

#[test]
fn a_message_that_does_not_fit_is_not_sent() {
    let (a, b) = pair().unwrap();
    for message in [String::new(), "x".repeat(MAX_BYTES)] {
        let sent = a.send(&message, &[]);
        assert_eq!(sent.is_ok(), message.is_empty(), "{}", message.len());
    }
    assert!(matches!(
        a.send(&(), &[]),
        Err(PacketError::DoesNotFit { bytes: 0, fds: 0 })
    ));
    assert_eq!(b.recv::<String>().unwrap().unwrap().0, "");
}

#[test]
fn a_listener_says_who_called_keeps_its_mode_and_replaces_only_what_is_stale() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = listen(&path, 0o666).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o666);
    let _client = connect(&path).unwrap();
    let peer = listener.accept().unwrap().peer().unwrap();
    assert_eq!(peer.pid, std::process::id());
    assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
    assert_eq!(peer.gid, rustix::process::getegid().as_raw());
    let groups = rustix::process::getgroups().unwrap();
    assert_eq!(peer.groups.len(), groups.len());
    assert!(peer.pidfd.is_none_or(|fd| is_cloexec(&fd)));

    let in_use = |path| listen(path, 0o600).unwrap_err().kind() == io::ErrorKind::AddrInUse;
    assert!(in_use(&path));
    drop(listener);
    assert!(listen(&path, 0o600).is_ok());
    let file = directory.path().join("file");
    std::fs::write(&file, "kept").unwrap();
    assert!(in_use(&file));
    assert_eq!(std::fs::read(&file).unwrap(), b"kept");
}

#[test]
fn a_full_queue_is_told_and_not_waited_for() {
    let (a, b) = pair().unwrap();
    let sent = (0..100_000).take_while(|n| a.try_send(n).unwrap()).count();
    assert!((1..100_000).contains(&sent), "{sent}");
    assert_eq!(b.recv::<i32>().unwrap().unwrap().0, 0);
    assert!(a.try_send(&1).unwrap());
}

#[test]
fn a_silent_peer_is_waited_for_no_longer_than_the_limit() {
    let (a, _b) = pair().unwrap();
    a.set_timeout(Some(Duration::from_millis(1))).unwrap();
    let Err(PacketError::Socket(error)) = a.recv::<u8>() else {
        panic!("the wait did not end in an error");
    };
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
}
