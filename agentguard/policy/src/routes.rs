//! Which requests to an HTTP API are which tools: by method and template of the path.
//!
//! Of several templates that match, the one with the most literal segments is meant. Servers differ in how they read
//! a path. What some may take for another template than it matches as it is sent, is not told to be either.

use agentguard_model::CanonicalPath;

/// The most segments that a template has. More are refused.
pub(crate) const MAX_SEGMENTS: usize = 32;

/// A template of paths, such as `/repos/{owner}/issues`: parameters are whole segments.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Template(Vec<Segment>);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Segment {
    /// As it stands in a canonical path.
    Literal(String),
    /// Any segment but an empty one, by the parameter's name.
    Parameter(String),
}

/// Why a text is no template.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum InvalidTemplate {
    /// It does not begin with a slash.
    #[error("does not begin with `/`")]
    NotAbsolute,
    /// A brace that begins or ends no parameter, or a parameter beside other characters.
    #[error("has a brace that is not around a whole segment")]
    Brace,
    /// A parameter's name.
    #[error("has a parameter whose name is not 1 to 63 characters a-z A-Z 0-9 _ . -")]
    Name,
    /// A parameter is there twice.
    #[error("has the parameter `{0}` twice")]
    Twice(String),
    /// [`MAX_SEGMENTS`].
    #[error("has more than {MAX_SEGMENTS} segments")]
    Long,
    /// It is not as paths are sent: this is.
    #[error("is not as paths are sent: that is `{0}`")]
    NotCanonical(String),
    /// No path is like this.
    #[error("is like no path: {0}")]
    NoPath(#[from] agentguard_model::AmbiguousPath),
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// [`InvalidTemplate`].
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidTemplate> {
        let path = text.strip_prefix('/').ok_or(InvalidTemplate::NotAbsolute)?;
        let mut segments: Vec<Segment> = Vec::new();
        for part in path.split('/') {
            if segments.len() == MAX_SEGMENTS {
                return Err(InvalidTemplate::Long);
            }
            let inner = part.strip_prefix('{').and_then(|it| it.strip_suffix('}'));
            let Some(name) = inner else {
                if part.contains(['{', '}']) {
                    return Err(InvalidTemplate::Brace);
                }
                segments.push(Segment::Literal(part.to_owned()));
                continue;
            };
            if !is_parameter(name) {
                return Err(InvalidTemplate::Name);
            }
            let parameter = Segment::Parameter(name.to_owned());
            if segments.contains(&parameter) {
                return Err(InvalidTemplate::Twice(name.to_owned()));
            }
            segments.push(parameter);
        }
        let template = Self(segments);
        let example = template.written(|_| "x".to_owned());
        if CanonicalPath::parse(&example)?.as_str() != example {
            let marked = template.written(|name| format!("agentguard-{name}-parameter"));
            let mut canonical = CanonicalPath::parse(&marked)?.as_str().to_owned();
            for name in template.parameters() {
                let marker = format!("agentguard-{name}-parameter");
                canonical = canonical.replace(&marker, &format!("{{{name}}}"));
            }
            return Err(InvalidTemplate::NotCanonical(canonical));
        }
        Ok(template)
    }

    fn written(&self, parameter: impl Fn(&str) -> String) -> String {
        self.0.iter().fold(String::new(), |path, segment| {
            path + "/"
                + &match segment {
                    Segment::Literal(text) => text.clone(),
                    Segment::Parameter(name) => parameter(name),
                }
        })
    }

    fn parameters(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|segment| match segment {
            Segment::Literal(_) => None,
            Segment::Parameter(name) => Some(name.as_str()),
        })
    }

    fn literals(&self) -> usize {
        self.0.len() - self.parameters().count()
    }

    /// Whether some path matches both, in whatever case, and neither is the more literal one.
    fn is_equal_to(&self, other: &Self) -> bool {
        let meet = |pair: (&Segment, &Segment)| match pair {
            (Segment::Literal(one), Segment::Literal(other)) => one.eq_ignore_ascii_case(other),
            (Segment::Literal(text), _) | (_, Segment::Literal(text)) => !text.is_empty(),
            _ => true,
        };
        self.0.len() == other.0.len()
            && self.literals() == other.literals()
            && self.0.iter().zip(&other.0).all(meet)
    }

    /// The segments of a path that stand for parameters, if it matches.
    fn matches<'p>(&self, path: &'p str, any_case: bool) -> Option<Vec<&'p str>> {
        let mut parts = path.strip_prefix('/')?.split('/');
        let mut values = Vec::new();
        for segment in &self.0 {
            let part = parts.next()?;
            match segment {
                Segment::Literal(text) if text == part => {}
                Segment::Literal(text) if any_case && text.eq_ignore_ascii_case(part) => {}
                Segment::Parameter(_) if !part.is_empty() => values.push(part),
                _ => return None,
            }
        }
        parts.next().is_none().then_some(values)
    }
}

/// Whether a text is a parameter's name.
fn is_parameter(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    (1..=63).contains(&name.len()) && name.bytes().all(allowed)
}

/// A tool of an HTTP API.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) name: String,
    /// In upper case. At least one.
    pub(crate) methods: Vec<String>,
    pub(crate) template: Template,
}

impl Route {
    /// Whether some request matches both, and neither is the more literal one.
    pub(crate) fn is_equal_to(&self, other: &Self) -> bool {
        let mut methods = self.methods.iter();
        methods.any(|method| other.methods.contains(method))
            && self.template.is_equal_to(&other.template)
    }
}

/// What a request is, by its method and its path.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Routed {
    /// The tool.
    pub name: String,
    /// The parameters that its path has, decoded, in their order.
    pub parameters: Vec<(String, String)>,
}

/// Why it is not known which tool a request is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unrouted {
    /// No template matches.
    #[error("no tool of the server has this method and path")]
    Unknown,
    /// As it is sent it is one tool, and as some servers read paths another.
    #[error("some servers may read its path as that of another tool")]
    Ambiguous,
}

/// The tools of an HTTP API.
#[derive(Debug, Default)]
pub(crate) struct Routes(pub(crate) Vec<Route>);

impl Routes {
    /// The tool that a request with a canonical path is.
    ///
    /// # Errors
    /// [`Unrouted`].
    pub(crate) fn route(&self, method: &str, path: &str) -> Result<Routed, Unrouted> {
        let (route, values) = self.best(method, path, false).ok_or(Unrouted::Unknown)?;
        let slashes = path.replace("%2F", "/");
        let plain = |path: &str| path.strip_suffix('/').map(str::to_owned);
        let readings = [Some(path.to_owned()), plain(path), plain(&slashes)];
        for reading in readings.into_iter().flatten().chain([slashes]) {
            let other = self.best(method, &reading, true);
            if other.is_some_and(|(other, _)| !std::ptr::eq(other, route)) {
                return Err(Unrouted::Ambiguous);
            }
        }
        let decode = |value: &str| {
            let decoded = percent_encoding::percent_decode_str(value);
            // A canonical path is UTF-8 once it is decoded.
            decoded.decode_utf8_lossy().into_owned()
        };
        let names = route.template.parameters().map(str::to_owned);
        Ok(Routed {
            name: route.name.clone(),
            parameters: names.zip(values.into_iter().map(decode)).collect(),
        })
    }

    fn best<'p>(
        &self,
        method: &str,
        path: &'p str,
        any_case: bool,
    ) -> Option<(&Route, Vec<&'p str>)> {
        let routes = self.0.iter();
        let routes = routes.filter(|route| route.methods.iter().any(|it| it == method));
        let matching = routes.filter_map(|route| {
            let values = route.template.matches(path, any_case)?;
            Some((route, values))
        });
        matching.max_by_key(|(route, _)| route.template.literals())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn routes(written: &[(&str, &str, &str)]) -> Routes {
        let read = written.iter().map(|(name, method, path)| Route {
            name: (*name).to_owned(),
            methods: vec![(*method).to_owned()],
            template: Template::parse(path).unwrap(),
        });
        Routes(read.collect())
    }

    #[test]
    fn the_most_literal_template_is_meant_and_what_may_be_another_is_none() {
        let routes = routes(&[
            ("me", "GET", "/users/me"),
            ("user", "GET", "/users/{id}"),
            ("rename", "PUT", "/users/{id}"),
            ("file", "GET", "/users/{id}/{file}"),
            ("root", "GET", "/"),
        ]);
        let named = |name: &str, parameters: &[(&str, &str)]| {
            let parameters = parameters.iter();
            Ok(Routed {
                name: name.to_owned(),
                parameters: parameters
                    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                    .collect(),
            })
        };
        let cases = [
            ("GET", "/users/me", named("me", &[])),
            ("GET", "/users/a%20b", named("user", &[("id", "a b")])),
            ("PUT", "/users/me", named("rename", &[("id", "me")])),
            ("GET", "/", named("root", &[])),
            (
                "GET",
                "/users/7/a",
                named("file", &[("id", "7"), ("file", "a")]),
            ),
            // Some do not look at case, some decode a slash first, some leave one out at the end.
            ("GET", "/users/ME", Err(Unrouted::Ambiguous)),
            ("GET", "/users/7%2Fa", Err(Unrouted::Ambiguous)),
            ("PUT", "/users/7%2Fa", named("rename", &[("id", "7/a")])),
            ("GET", "/users/7/", Err(Unrouted::Unknown)),
            ("GET", "/users", Err(Unrouted::Unknown)),
            ("GET", "/Users/7", Err(Unrouted::Unknown)),
            ("get", "/users/7", Err(Unrouted::Unknown)),
            ("DELETE", "/users/7", Err(Unrouted::Unknown)),
            ("OPTIONS", "*", Err(Unrouted::Unknown)),
        ];
        for (method, path, expected) in cases {
            assert_eq!(routes.route(method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn what_is_no_template_is_told_with_why() {
        let cases = [
            ("users", InvalidTemplate::NotAbsolute),
            ("/a{b}", InvalidTemplate::Brace),
            ("/{a", InvalidTemplate::Brace),
            ("/{}", InvalidTemplate::Name),
            ("/{a b}", InvalidTemplate::Name),
            ("/{a}/{a}", InvalidTemplate::Twice("a".to_owned())),
            (
                "/%61//{x}",
                InvalidTemplate::NotCanonical("/a/{x}".to_owned()),
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(Template::parse(text), Err(expected), "{text}");
        }
        assert!(Template::parse(&"/a".repeat(MAX_SEGMENTS)).is_ok());
        let long = Template::parse(&"/a".repeat(MAX_SEGMENTS + 1));
        assert_eq!(long, Err(InvalidTemplate::Long));
    }

    proptest! {
        /// Where no two templates are equal, the order in which they are written says nothing.
        #[test]
        fn the_order_of_templates_does_not_matter(
            paths in prop::collection::vec("(/(a|B|\\{x\\}))(/(a|b|\\{y\\}))?(/(a|b|\\{z\\}))?", 1..6),
            path in "(/(a|A|b|B|c|a%2Fb)){1,3}/?",
        ) {
            let written: Vec<_> = paths.iter().map(|it| (it.as_str(), "GET", it.as_str())).collect();
            let forwards = routes(&written);
            let equal = |n: usize, one: &Route| forwards.0[n + 1..].iter().any(|it| it.is_equal_to(one));
            prop_assume!(!forwards.0.iter().enumerate().any(|(n, one)| equal(n, one)));
            let mut backwards = routes(&written);
            backwards.0.reverse();
            prop_assert_eq!(forwards.route("GET", &path), backwards.route("GET", &path));
        }
    }
}
