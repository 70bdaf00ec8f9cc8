//! Errors in the words of an answer: what happened and why, and what to do, apart from each other.

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

#[cfg(test)]
mod tests {
    use super::in_words;

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
