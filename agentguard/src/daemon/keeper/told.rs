//! Errors in the words of an answer: what happened and why, and what to do, apart from each other.

use agentguard_policy::Diagnostics;

use crate::config::exposed::Exposed;
use crate::config::{ConfigError, Faults};

/// An error with its causes, outermost first, and the first of their hints. Each may end in one, behind
/// `; hint: `.
pub(super) fn in_words(error: &anyhow::Error) -> (String, Option<String>) {
    let mut words = Vec::new();
    let mut hint = None;
    for cause in error.chain() {
        let text = cause.to_string();
        match text.split_once("; hint: ") {
            Some((what, todo)) => {
                words.push(what.to_owned());
                hint.get_or_insert(todo.to_owned());
            }
            None => words.push(text),
        }
    }
    (words.join(": "), hint)
}

/// What is wrong with the files of a policy, if that is why it was not taken.
pub(super) fn faults(error: &anyhow::Error) -> Option<String> {
    if let Some(error) = error.downcast_ref::<ConfigError>() {
        return Some(Faults(error.faults(false)).to_string());
    }
    if let Some(exposed) = error.downcast_ref::<Exposed>() {
        return Some(exposed.fault().to_string());
    }
    Some(error.downcast_ref::<Diagnostics>()?.to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::{faults, in_words};
    use crate::config::{exposed, sources};

    #[test]
    fn a_policy_that_cannot_be_read_or_trusted_is_told_as_one_that_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.yaml");
        let shown = path.display();
        let told = |error: anyhow::Error| faults(&error).unwrap();
        let read = || sources::read(&path, |_| Ok(())).unwrap_err().into();
        assert_eq!(
            told(read()),
            format!(
                "{shown}: error: cannot read the policy: No such file or directory\n  hint: docs/policy.md has an example; the configuration's `policy` names the file"
            )
        );
        std::fs::create_dir(&path).unwrap();
        assert_eq!(
            told(read()),
            format!(
                "{shown}: error: cannot read the policy: Is a directory\n  hint: it is a directory; name a file in it"
            )
        );
        std::fs::remove_dir(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        let owner = rustix::process::geteuid().as_raw();
        let open = exposed::file("policy", &path, owner).unwrap_err();
        let told = told(open.into());
        let begins = format!("{shown}: error: the policy {shown} can be written by everybody");
        assert!(told.starts_with(&begins), "{told}");
        assert!(told.contains("\n  hint: chmod o-w "), "{told}");
        assert_eq!(faults(&anyhow::anyhow!("the map is full")), None);
    }

    #[test]
    fn a_hint_is_taken_out_of_the_middle() {
        let error = anyhow::anyhow!("no space left")
            .context("cannot write x; hint: see the disk")
            .context("not noted");
        assert_eq!(
            in_words(&error),
            (
                "not noted: cannot write x: no space left".to_owned(),
                Some("see the disk".to_owned())
            )
        );
    }
}
