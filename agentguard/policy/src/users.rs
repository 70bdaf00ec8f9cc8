//! Who may run an agent besides root.
//!
//! A document names users; which numbers these have is known to the host's database alone. So the
//! loader keeps what is written, with its place, and [`Policy::users`] is handed the one who looks up.

use std::collections::HashMap;

use agentguard_model::Users;

use crate::Policy;
use crate::diagnostic::{Diagnostic, Diagnostics, Severity, quoted};
use crate::load::Report;
use crate::yaml::{At, Place};

/// The users of one agent, at most. More are refused.
pub const MAX_USERS: usize = 64;

/// The bytes of a user's name, at most: `LOGIN_NAME_MAX` of Linux without the NUL.
const MAX_NAME: usize = 255;

/// A user as a document names it.
#[derive(Clone, Debug)]
pub(crate) struct User {
    who: Who,
    path: String,
    place: Place,
}

#[derive(Clone, Debug)]
enum Who {
    Uid(u32),
    Name(String),
}

/// The entries of an agent's `users` that can be meant. `whole`: nothing in the agent was told already.
pub(crate) fn users(list: &At<Vec<At<String>>>, whole: bool, report: &mut Report) -> Vec<User> {
    if list.value.is_empty() && whole {
        let hint = "leave `users` out where only root is to run the agent";
        report.error(list.place, "`users` is empty", hint);
    }
    if list.value.len() > MAX_USERS {
        let message = format!(
            "`users` has {} entries; the limit is {MAX_USERS}",
            list.value.len()
        );
        report.error(list.place, message, "run it by a service as one user");
        return Vec::new();
    }
    list.value
        .iter()
        .filter_map(|entry| user(entry, report))
        .collect()
}

fn user(entry: &At<String>, report: &mut Report) -> Option<User> {
    let text = entry.value.as_str();
    let number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let who = if number {
        // The last one stands for "none" in the kernel's calls.
        text.parse()
            .ok()
            .filter(|uid| *uid != u32::MAX)
            .map(Who::Uid)
    } else {
        let is_name = text.parse::<f64>().is_err()
            && !text.starts_with("0x")
            && (1..=MAX_NAME).contains(&text.len())
            && !text.contains(['\0', ':', '\n']);
        is_name.then(|| Who::Name(text.to_owned()))
    };
    let Some(who) = who else {
        report.error(
            entry.place,
            format!("`{}` is not a user", quoted(text)),
            "name a user of this host, or give its number: 0 to 4294967294",
        );
        return None;
    };
    Some(User {
        who,
        path: report.path().to_owned(),
        place: entry.place,
    })
}

impl Policy {
    /// Who may run which agent besides root. `look_up` is asked for each name once: its number, `None`
    /// if the host has no such user, or why that cannot be found out.
    ///
    /// # Errors
    /// A diagnostic for each name without a number.
    pub fn users(
        &self,
        mut look_up: impl FnMut(&str) -> Result<Option<u32>, String>,
    ) -> Result<Users, Diagnostics> {
        let mut known: HashMap<&str, Result<Option<u32>, String>> = HashMap::new();
        let mut users = Users::default();
        let mut found = Vec::new();
        for agent in self.agents() {
            for user in &agent.users {
                let name = match &user.who {
                    Who::Uid(uid) => {
                        users.add(agent.name.clone(), *uid);
                        continue;
                    }
                    Who::Name(name) => name.as_str(),
                };
                match known.entry(name).or_insert_with(|| look_up(name)) {
                    Ok(Some(uid)) => users.add(agent.name.clone(), *uid),
                    Ok(None) => found.push(user.wrong(
                        format!("there is no user `{}` on this host", quoted(name)),
                        "add the user, or take it out of `users`; a number is not looked up",
                    )),
                    Err(why) => found.push(user.wrong(
                        format!("cannot look for the user `{}`: {why}", quoted(name)),
                        "see that the host's user database answers; a number is not looked up",
                    )),
                }
            }
        }
        if found.is_empty() {
            Ok(users)
        } else {
            Err(Diagnostics::new(found))
        }
    }

    /// The names that [`Self::users`] asks for, each once, in the order of the documents.
    #[must_use]
    pub fn user_names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for user in self.agents().iter().flat_map(|agent| &agent.users) {
            if let Who::Name(name) = &user.who
                && seen.insert(name.as_str())
            {
                names.push(name.clone());
            }
        }
        names
    }
}

impl User {
    fn wrong(&self, message: String, hint: &str) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            path: self.path.clone(),
            line: self.place.line,
            column: self.place.column,
            message,
            hint: hint.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Document, compile};

    fn read(users: &str) -> Result<Policy, Diagnostics> {
        compile(&[Document {
            path: "p.yaml".into(),
            text: format!("version: 1\nagents:\n  - name: coder\n    users: {users}\n"),
        }])
    }

    #[test]
    fn users_are_looked_up_by_name_once_and_numbers_not_at_all() {
        let policy = read("[alice, 1007, alice, \"1008\", \"bob smith\"]").unwrap();
        assert_eq!(policy.user_names(), ["alice", "bob smith"]);
        let mut asked = Vec::new();
        let users = policy.users(|name| {
            asked.push(name.to_owned());
            Ok(Some(u32::try_from(name.len()).unwrap()))
        });
        assert_eq!(asked, ["alice", "bob smith"]);
        let users = users.unwrap();
        let coder = "coder".parse().unwrap();
        assert_eq!(users.of(&coder).collect::<Vec<_>>(), [5, 9, 1007, 1008]);
        assert!(users.may_run(1007, &coder) && !users.may_run(0, &coder));
        assert!(!users.may_run(1007, &"tester".parse().unwrap()));
        assert_eq!(users.agents_of(5).collect::<Vec<_>>(), [&coder]);
        assert_eq!(users.agents_of(6).count(), 0);
    }

    #[test]
    fn a_name_that_is_no_users_is_an_error_in_its_place() {
        let policy = read("[alice, bob]").unwrap();
        let users = policy.users(|name| Ok((name == "alice").then_some(7)));
        assert_eq!(
            users.unwrap_err().to_string(),
            "p.yaml:4:20: error: there is no user `bob` on this host\n  hint: add the user, or take it out of `users`; a number is not looked up"
        );
        let users = policy.users(|_| Err("it is down".to_owned()));
        let told = users.unwrap_err().to_string();
        assert!(
            told.starts_with("p.yaml:4:13: error: cannot look for the user `alice`: it is down"),
            "{told}"
        );
    }

    #[test]
    fn what_cannot_be_a_user_is_refused_when_it_is_read() {
        let many = format!("[{}]", vec!["1"; MAX_USERS + 1].join(", "));
        for (users, says) in [
            ("[]", "4:12: error: `users` is empty"),
            ("[\"\"]", "4:13: error: `` is not a user"),
            ("[4294967295]", "`4294967295` is not a user"),
            ("[99999999999]", "`99999999999` is not a user"),
            ("[-1]", "`-1` is not a user"),
            ("[1.5]", "`1.5` is not a user"),
            ("[0x10]", "`0x10` is not a user"),
            ("[\"a:b\"]", "`a:b` is not a user"),
            (&many, "`users` has 65 entries; the limit is 64"),
        ] {
            let told = read(users).unwrap_err().to_string();
            assert!(told.contains(says), "{users}: {told}");
        }
    }
}
