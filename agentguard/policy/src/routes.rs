//! Which requests to an HTTP API are which tools: by method and template of the path.
//!
//! Of several templates that match, the most literal one is meant (`template`): the one with the most segments that are
//! text; of these the one with the most segments in which text stands beside parameters, then the one with the fewest
//! parameters. What fits a template in several ways (`segment`) has no arguments that all servers agree on, and is no
//! tool. Servers differ in how they read a path. What some may take for another template than it matches as it is sent,
//! is not told to be either.

mod segment;
mod template;

use std::sync::Arc;

use agentguard_model::ArgumentType;
use agentguard_protocol::json::same_name;

pub(crate) use template::{InvalidTemplate, Template};

use segment::{Fit, Reading, decoded};

use crate::readings::merged;

/// A tool of an HTTP API.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) name: String,
    /// In upper case. At least one.
    pub(crate) methods: Vec<String>,
    pub(crate) template: Template,
    /// Arguments that may be there several times, as they are written.
    pub(crate) lists: Arc<[String]>,
    /// The types of arguments, by name; those of lists for their entries.
    pub(crate) types: Arc<[(String, ArgumentType)]>,
}

impl Route {
    /// Whether some request matches both, and neither is the more literal one.
    pub(crate) fn is_equal_to(&self, other: &Self) -> bool {
        let mut methods = self.methods.iter();
        methods.any(|method| other.methods.contains(method))
            && self.template.is_equal_to(&other.template)
    }

    /// The type of what a JSON Pointer stands for: an argument, or an entry of one that is a list.
    pub(crate) fn type_of(&self, pointer: &str) -> Option<ArgumentType> {
        let mut tokens = pointer.split('/').skip(1);
        let name = tokens.next()?.replace("~1", "/").replace("~0", "~");
        let (of, kind) = self.types.iter().find(|(it, _)| same_name(it, &name))?;
        let is_list = || {
            let mut lists = self.lists.iter();
            lists.any(|it| same_name(it.strip_suffix("[]").unwrap_or(it), of))
        };
        match (tokens.next(), tokens.next()) {
            (None, _) => Some(*kind),
            (Some(entry), None) if entry.bytes().all(|b| b.is_ascii_digit()) && is_list() => {
                Some(*kind)
            }
            _ => None,
        }
    }
}

/// What a request is, by its method and its path.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Routed {
    /// The tool.
    pub name: String,
    /// The parameters that its path has, decoded, in their order.
    pub parameters: Vec<(String, String)>,
    /// The arguments that may be there several times in a query or a form, as they are written there.
    pub lists: Arc<[String]>,
    /// The types of arguments, by name; those of lists for their entries.
    pub types: Arc<[(String, ArgumentType)]>,
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
    /// What its parameters are can be said in several ways.
    #[error("its path can be divided among the parameters of a segment in several ways")]
    Several,
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
        let sent = Reading::Sent.segments(path).ok_or(Unrouted::Unknown)?;
        let best = self.best(method, &sent, Reading::Sent);
        let (route, fit) = best.ok_or(Unrouted::Unknown)?;
        let slashes = path.replace("%2F", "/");
        let plain = |path: &str| path.strip_suffix('/').map(str::to_owned);
        let readings = [Some(path.to_owned()), plain(path), plain(&slashes)];
        for reading in readings
            .into_iter()
            .flatten()
            .chain([merged(&slashes), slashes])
        {
            for folded in [Reading::Folded, Reading::Trimmed] {
                let Some(segments) = folded.segments(&reading) else {
                    continue;
                };
                match self.best(method, &segments, folded) {
                    Some((other, _)) if !std::ptr::eq(other, route) => {
                        return Err(Unrouted::Ambiguous);
                    }
                    Some((_, Fit::Several)) => return Err(Unrouted::Several),
                    _ => {}
                }
            }
        }
        let Fit::One(values) = fit else {
            return Err(Unrouted::Several);
        };
        let names = route.template.parameters().map(str::to_owned);
        Ok(Routed {
            name: route.name.clone(),
            parameters: names.zip(values.into_iter().map(decoded)).collect(),
            lists: Arc::clone(&route.lists),
            types: Arc::clone(&route.types),
        })
    }

    /// The most literal template that a path fits whose segments are read so.
    fn best<'p>(
        &self,
        method: &str,
        path: &'p [String],
        reading: Reading,
    ) -> Option<(&Route, Fit<'p>)> {
        let routes = self.0.iter();
        let routes = routes.filter(|route| route.methods.iter().any(|it| it == method));
        let matching = routes.filter_map(|route| {
            let fit = route.template.fit(path, reading);
            (fit != Fit::No).then_some((route, fit))
        });
        matching.max_by_key(|(route, _)| route.template.literalness())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::template::MAX_SEGMENTS;
    use super::*;

    fn routes(written: &[(&str, &str, &str)]) -> Routes {
        let read = written.iter().map(|(name, method, path)| Route {
            name: (*name).to_owned(),
            methods: vec![(*method).to_owned()],
            template: Template::parse(path).unwrap(),
            lists: Arc::default(),
            types: Arc::default(),
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
                lists: Arc::default(),
                types: Arc::default(),
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
    fn parameters_are_parts_of_segments_and_what_fits_in_several_ways_is_no_tool() {
        let routes = routes(&[
            ("file", "GET", "/files/{name}"),
            ("download", "GET", "/files/{name}:download"),
            ("undelete", "GET", "/files/{name}:undelete"),
            ("json", "GET", "/reports/{id}.json"),
            ("report", "GET", "/reports/{id}.{format}"),
            ("pair", "GET", "/pairs/{a}:{b}"),
            ("search", "GET", "/v1/{parent}/items:search"),
            ("item", "GET", "/v1/{parent}/{item}"),
        ]);
        let named = |name: &str, parameters: &[(&str, &str)]| {
            let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            Ok(Routed {
                name: name.to_owned(),
                parameters: parameters.iter().map(own).collect(),
                lists: Arc::default(),
                types: Arc::default(),
            })
        };
        let cases = [
            ("/files/a", named("file", &[("name", "a")])),
            ("/files/a:download", named("download", &[("name", "a")])),
            (
                "/files/a%2Fb:undelete",
                named("undelete", &[("name", "a/b")]),
            ),
            ("/files/a:b", named("file", &[("name", "a:b")])),
            (
                "/reports/7.pdf",
                named("report", &[("id", "7"), ("format", "pdf")]),
            ),
            ("/reports/7.json", named("json", &[("id", "7")])),
            // The most literal one is meant, however the other could be divided.
            ("/reports/7.a.json", named("json", &[("id", "7.a")])),
            ("/reports/7.tar.gz", Err(Unrouted::Several)),
            ("/reports/.7.pdf", Err(Unrouted::Several)),
            ("/pairs/1:2", named("pair", &[("a", "1"), ("b", "2")])),
            ("/pairs/1%3A2:3", Err(Unrouted::Several)),
            ("/reports/7", Err(Unrouted::Unknown)),
            ("/v1/p/items:search", named("search", &[("parent", "p")])),
            // In another case, with an escape, with nothing for the parameter.
            ("/files/a:Download", Err(Unrouted::Ambiguous)),
            ("/files/a%3Adownload", Err(Unrouted::Ambiguous)),
            ("/files/:download", Err(Unrouted::Ambiguous)),
            ("/reports/7.JSON", Err(Unrouted::Ambiguous)),
            ("/v1/p/items%3Asearch", Err(Unrouted::Ambiguous)),
            ("/v1/p%2Fitems:search", Err(Unrouted::Unknown)),
            ("/files/a:download/", Err(Unrouted::Unknown)),
            // Some leave out spaces around it, parameters behind it, and segments that are empty.
            ("/files/a:download%20", Err(Unrouted::Ambiguous)),
            ("/files/a:download%0A", Err(Unrouted::Ambiguous)),
            ("/files/a:download%00", Err(Unrouted::Ambiguous)),
            ("/files/a:download%3Bv=1", Err(Unrouted::Ambiguous)),
            ("/files/a:download;v=1", Err(Unrouted::Ambiguous)),
            ("/files/a:download%EF%BB%BF", Err(Unrouted::Ambiguous)),
            ("/v1/p%2F%2Fitems:search", Err(Unrouted::Unknown)),
            ("/files/a%20", named("file", &[("name", "a ")])),
            ("/files/a;b", named("file", &[("name", "a;b")])),
        ];
        for (path, expected) in cases {
            assert_eq!(routes.route("GET", path), expected, "{path}");
        }
    }

    #[test]
    fn what_is_empty_or_leads_back_once_it_is_trimmed_may_be_another_tool() {
        let routes = routes(&[
            ("admin", "GET", "/files/admin"),
            ("sub", "GET", "/files/{dir}/{name}"),
            ("deep", "GET", "/files/{a}/{b}/{c}"),
        ]);
        for path in [
            "/files/%20/admin",
            "/files/x/..%20/admin",
            "/files/.%20/admin",
        ] {
            assert_eq!(
                routes.route("GET", path),
                Err(Unrouted::Ambiguous),
                "{path}"
            );
        }
        assert_eq!(
            routes.route("GET", "/files/x%20/admin").unwrap().name,
            "sub"
        );
    }

    #[test]
    fn templates_that_some_path_fits_alike_are_equal() {
        let template = |text| Template::parse(text).unwrap();
        for (one, other, equal) in [
            ("/{a}.{b}", "/{a}-{b}", true),
            ("/{a}:x", "/{b}:Y", false),
            ("/{a}:x", "/{b}%3AX", true),
            ("/{a}:delete", "/{a}:undelete", false),
            ("/a{x}", "/{y}b", true),
            ("/{a}:x", "/{a}", false),
            ("/{a}.json", "/{a}.{b}", false),
            ("/a.{b}/{c}", "/{a}/x{b}", true),
        ] {
            let told = template(one).is_equal_to(&template(other));
            assert_eq!(told, equal, "{one} {other}");
        }
    }

    #[test]
    fn what_is_no_template_is_told_with_why() {
        let cases = [
            ("users", InvalidTemplate::NotAbsolute),
            ("/a}b", InvalidTemplate::Brace),
            ("/{a", InvalidTemplate::Brace),
            ("/{a}}", InvalidTemplate::Brace),
            ("/{a{b}}", InvalidTemplate::Brace),
            ("/{a}{b}", InvalidTemplate::Touching),
            ("/x{a}.{b}/-{a}", InvalidTemplate::Twice("a".to_owned())),
            ("/{a}.{b}.{c}.{d}.{e}", InvalidTemplate::Many),
            ("/{}", InvalidTemplate::Name),
            ("/{a b}", InvalidTemplate::Name),
            ("/{a}/{a}", InvalidTemplate::Twice("a".to_owned())),
            (
                "/%61.{x}",
                InvalidTemplate::NotCanonical("/a.{x}".to_owned()),
            ),
            (
                "/%61//{x}",
                InvalidTemplate::NotCanonical("/a/{x}".to_owned()),
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(Template::parse(text), Err(expected), "{text}");
        }
        assert!(Template::parse("/{a};{b}").is_err() && Template::parse("/%{a}").is_err());
        assert!(Template::parse("/{a}.{b}-{c}~{d}").is_ok());
        assert!(Template::parse(&"/a".repeat(MAX_SEGMENTS)).is_ok());
        let long = Template::parse(&"/a".repeat(MAX_SEGMENTS + 1));
        assert_eq!(long, Err(InvalidTemplate::Long));
    }

    /// Any text as it stands in a path.
    fn escaped(text: &str) -> String {
        let bytes = text.bytes();
        bytes.fold(String::new(), |path, byte| match byte {
            b'a'..=b'z' | b'.' => path + &char::from(byte).to_string(),
            _ => path + &format!("%{byte:02X}"),
        })
    }

    proptest! {
        /// A path that is made of a template is its tool with the arguments that it was made of, or none.
        #[test]
        fn a_path_that_is_made_of_a_template_gives_back_its_arguments_or_is_refused(
            template in prop::sample::select(vec![
                "/{a}/x/{b}", "/r/{a}.{b}", "/r/{a}:{b}.json", "/f/{a}:download", "/v{a}/{b}", "/{a}-{b}/{c}",
            ]),
            values in prop::collection::vec("[a-c.:/ é-]{1,5}", 3),
        ) {
            let routes = routes(&[("it", "GET", template), ("other", "GET", "/{x}/b")]);
            let mut path = template.to_owned();
            let mut made = Vec::new();
            for (name, value) in ["a", "b", "c"].into_iter().zip(&values) {
                let parameter = format!("{{{name}}}");
                if path.contains(&parameter) {
                    path = path.replace(&parameter, &escaped(value));
                    made.push((name.to_owned(), value.clone()));
                }
            }
            // What servers read differently never gets this far.
            let Ok(path) = agentguard_model::CanonicalPath::parse(&path) else {
                return Ok(());
            };
            match routes.route("GET", path.as_str()) {
                Ok(read) if read.name == "it" => prop_assert_eq!(read.parameters, made, "{}", path),
                // A dot segment that was resolved is another path.
                Ok(read) => prop_assert_eq!(read.name, "other"),
                Err(_) => {}
            }
        }

        /// Where no two templates are equal, the order in which they are written says nothing.
        #[test]
        fn the_order_of_templates_does_not_matter(
            paths in prop::collection::vec("(/(a|B|\\{x\\}|\\{x\\}:a))(/(a|b|\\{y\\}|\\{y\\}\\.\\{w\\}))?(/(a|b|\\{z\\}))?", 1..6),
            path in "(/(a|A|b|B|c|a%2Fb|:A|b:a|b%3Aa|a\\.b|a\\.b\\.c)){1,3}/?",
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
