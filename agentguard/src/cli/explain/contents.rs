//! What was kept of contents, for people.

use agentguard_model::contents::{Content, Contents, Kept};

/// Each content under a line that says which it is, and how much of it there is.
pub(super) fn told(contents: &Contents) -> String {
    let mut text = String::new();
    for (name, content) in [
        ("request", &contents.request),
        ("response", &contents.response),
    ] {
        if let Some(content) = content {
            text.push_str(&format!("{name}: {}\n", head(content)));
            text.push_str(said(content));
            text.push('\n');
        }
    }
    text
}

fn head(content: &Content) -> String {
    let form = match content.kept {
        Kept::Text(_) => "",
        Kept::Base64(_) => ", in base64",
    };
    let cut = match content.cut {
        true => ", of which the beginning was kept",
        false => "",
    };
    format!("{} bytes{form}{cut}", content.size)
}

fn said(content: &Content) -> &str {
    match &content.kept {
        Kept::Text(text) | Kept::Base64(text) => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_told_with_how_much_there_is() {
        let content = |kept, size, cut| Some(Content { kept, size, cut });
        let contents = Contents {
            request: content(Kept::Text("hi".to_owned()), 2, false),
            response: content(Kept::Base64("/wA=".to_owned()), 70_000, true),
        };
        assert_eq!(
            told(&contents),
            "request: 2 bytes\nhi\nresponse: 70000 bytes, in base64, of which the beginning was kept\n/wA=\n"
        );
        assert_eq!(told(&Contents::default()), "");
    }
}
