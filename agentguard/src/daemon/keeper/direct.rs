//! What of a policy does not go together with the configuration: `direct` where a proxy is needed.

use agentguard_model::{Handling, UpstreamEntry};
use agentguard_policy::{Policy, RuleAction};

/// Rules that are named, at most.
const NAMED: usize = 8;

/// Says so, for who starts the daemon or loads a policy.
pub(super) fn warn(upstreams: &[UpstreamEntry], policy: &Policy) {
    if let Some(warning) = warning(upstreams, policy) {
        tracing::warn!("{warning}");
    }
}

fn warning(upstreams: &[UpstreamEntry], policy: &Policy) -> Option<String> {
    upstreams.iter().find(|entry| entry.proxy.is_some())?;
    let direct: Vec<&str> = policy
        .rules()
        .filter(|rule| rule.action == RuleAction::Allow && rule.handling == Handling::Direct)
        .map(|rule| rule.id.as_str())
        .collect();
    if direct.is_empty() {
        return None;
    }
    let named = direct.get(..NAMED).unwrap_or(&direct);
    let more = if direct.len() > NAMED { ", …" } else { "" };
    Some(format!(
        "`direct` goes through no proxy ({}{more}): names that have a `proxy` \
         under `upstreams` in the configuration are denied there with `no_address`; \
         hint: `handling: splice` for TCP",
        named.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use agentguard_model::{ProxyHost, UpstreamEntry, UpstreamProxy};
    use agentguard_policy::{Document, compile};

    use super::warning;

    #[test]
    fn direct_rules_are_named_where_names_are_behind_a_proxy() {
        let text = "
version: 1
agents: [{name: coder}]
rules:
  - {id: shell, match: {host: [a.example], port: [22]}, action: allow, handling: direct}
  - {id: web, match: {host: [a.example], port: [443]}, action: allow}
  - {id: no, match: {host: [b.example]}, action: deny}
";
        let path = "policy.yaml".to_owned();
        let text = text.to_owned();
        let policy = compile(&[Document { path, text }]).unwrap();
        let mut entry = UpstreamEntry {
            hosts: Vec::new(),
            everywhere: true,
            certificates: Vec::new(),
            revocations: Vec::new(),
            address: None,
            proxy: None,
            server_name: None,
            identity: None,
        };
        assert_eq!(warning(&[entry.clone()], &policy), None);
        entry.proxy = Some(UpstreamProxy {
            host: ProxyHost::Ip([192, 0, 2, 1].into()),
            port: 3128,
            credentials: None,
        });
        let told = warning(&[entry], &policy).unwrap();
        assert!(
            told.starts_with("`direct` goes through no proxy (shell): "),
            "{told}"
        );
    }
}
