//! Templates of paths.

use std::cmp::Reverse;

use agentguard_model::CanonicalPath;

use super::segment::{Fit, MAX_PARAMETERS, Reading, Segment};

/// The most segments that a template has. More are refused.
pub(crate) const MAX_SEGMENTS: usize = 32;

/// A template of paths, such as `/repos/{owner}/issues` or `/reports/{id}.{format}`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Template(Vec<Segment>);

/// Why a text is no template.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum InvalidTemplate {
    /// It does not begin with a slash.
    #[error("does not begin with `/`")]
    NotAbsolute,
    /// A brace that begins or ends no parameter.
    #[error("has a brace that is not around a parameter")]
    Brace,
    /// A parameter's name.
    #[error("has a parameter whose name is not 1 to 63 characters a-z A-Z 0-9 _ . -")]
    Name,
    /// A parameter is there twice.
    #[error("has the parameter `{0}` twice")]
    Twice(String),
    /// Nobody could say where the one ends and the other begins.
    #[error("has two parameters without text between them")]
    Touching,
    /// [`MAX_PARAMETERS`].
    #[error("has more than {MAX_PARAMETERS} parameters in a segment")]
    Many,
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

/// How literal a template is: how many of its segments are text, in how many text stands beside parameters, and how
/// few parameters it has.
pub(super) type Literalness = (usize, usize, Reverse<usize>);

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
            segments.push(Segment::parse(part)?);
        }
        let template = Self(segments);
        let mut names: Vec<&str> = template.parameters().collect();
        names.sort_unstable();
        let twice = names.windows(2).find(|pair| pair.first() == pair.last());
        if let Some([name, ..]) = twice {
            return Err(InvalidTemplate::Twice((*name).to_owned()));
        }
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
        let segments = self.0.iter();
        segments.fold(String::new(), |path, it| {
            path + "/" + &it.written(&parameter)
        })
    }

    pub(crate) fn parameters(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(Segment::parameters)
    }

    pub(super) fn literalness(&self) -> Literalness {
        let count = |which: fn(&Segment) -> bool| self.0.iter().filter(|it| which(it)).count();
        let text = count(Segment::is_text);
        let plain = count(Segment::is_parameter);
        let parameters = Reverse(self.parameters().count());
        (text, self.0.len() - text - plain, parameters)
    }

    /// Whether some path matches both, in whatever reading, and neither is the more literal one.
    pub(super) fn is_equal_to(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self.literalness() == other.literalness()
            && self
                .0
                .iter()
                .zip(&other.0)
                .all(|(one, other)| one.meets(other))
    }

    /// How the segments of a path fit that are read so.
    pub(super) fn fit<'p>(&self, path: &'p [String], reading: Reading) -> Fit<'p> {
        if path.len() != self.0.len() {
            return Fit::No;
        }
        let (mut values, mut several) = (Vec::new(), false);
        for (segment, part) in self.0.iter().zip(path) {
            match segment.fit(part, reading) {
                Fit::No => return Fit::No,
                Fit::One(of_this) => values.extend(of_this),
                Fit::Several => several = true,
            }
        }
        match several {
            true => Fit::Several,
            false => Fit::One(values),
        }
    }
}
