//! What an agent may take of its host.

use agentguard_model::{BlockDevice, IoLimit, MilliCpus, ResourceLimits};

use super::{agent, policy};
use crate::OnMissing;

#[test]
fn limits_are_read_exactly_and_hold_where_the_policy_enforces() {
    let policy = policy(
        "version: 1
agents:
  - name: coder
    resources: &limits
      cpu: 1.5
      memory: 2 GiB
      memory_high: 1536MiB
      pids: 200
      io:
        - {device: /dev/vda, read: 10MiB, write_ops: 500}
        - {device: \"254:16\", write: 4096}
  - {name: watched, mode: observe, resources: *limits}
  - {name: tolerant, resources: {cpu: \"2\", missing: warn}}
  - {name: free}
rules: [{id: none, action: deny}]
",
    );
    let coder = agent(&policy, "coder");
    let io = |device, read, write, write_ops| IoLimit {
        device,
        read,
        write,
        read_ops: None,
        write_ops,
    };
    let node = BlockDevice::Node("/dev/vda".into());
    let number = BlockDevice::Number {
        major: 254,
        minor: 16,
    };
    let limits = ResourceLimits {
        cpu: Some(MilliCpus(1500)),
        memory: Some(2 << 30),
        memory_high: Some(1536 << 20),
        pids: Some(200),
        io: vec![
            io(node, Some(10 << 20), None, Some(500)),
            io(number, None, Some(4096), None),
        ],
    };
    assert_eq!(coder.limits(), limits);
    assert_eq!(coder.resources.missing, OnMissing::Refuse);
    let watched = agent(&policy, "watched");
    assert_eq!(watched.resources.limits, limits);
    assert_eq!(watched.limits(), ResourceLimits::default());
    let tolerant = agent(&policy, "tolerant");
    assert_eq!(tolerant.limits().cpu, Some(MilliCpus(2000)));
    assert_eq!(tolerant.resources.missing, OnMissing::Warn);
    assert!(agent(&policy, "free").limits().is_empty());
}
