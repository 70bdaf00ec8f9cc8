//! Documents (GraphQL, October 2021, 2.2): what is selected at the top of an operation, and of what is below, that it
//! is well formed.

use std::collections::HashSet;

use super::Fault;
use super::lexer::{Token, tokens};

/// How deep selections, values and types may be nested.
const MAX_DEPTH: usize = 64;

/// A document that is executed.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) operations: Vec<Operation>,
    pub(super) fragments: Vec<(String, Vec<Selection>)>,
}

#[derive(Debug)]
pub(super) struct Operation {
    /// `query`, `mutation`, `subscription`.
    pub(super) kind: String,
    pub(super) name: Option<String>,
    /// Its variables, with what they are if nothing is said.
    pub(super) variables: Vec<(String, Option<Literal>)>,
    pub(super) selections: Vec<Selection>,
}

/// What is selected at the top.
#[derive(Debug)]
pub(super) enum Selection {
    Field {
        name: String,
        arguments: Vec<(String, Literal)>,
    },
    /// A fragment, by its name.
    Spread(String),
    Inline(Vec<Selection>),
}

/// A value as it is written.
#[derive(Debug)]
pub(super) enum Literal {
    Variable(String),
    Number(String),
    Text(String),
    /// `true`, `false`, `null`, and names of enumerations.
    Word(String),
    List(Vec<Literal>),
    Object(Vec<(String, Literal)>),
}

impl Document {
    /// Reads a document.
    ///
    /// # Errors
    /// [`Fault`].
    pub(super) fn parse(text: &str) -> Result<Self, Fault> {
        let mut parser = Parser {
            rest: tokens(text)?.into_iter().peekable(),
        };
        let mut document = Self::default();
        while let Some(token) = parser.rest.peek() {
            if *token == Token::Mark(b'{') {
                document.operations.push(Operation {
                    kind: "query".to_owned(),
                    name: None,
                    variables: Vec::new(),
                    selections: parser.selections(0)?,
                });
                continue;
            }
            let kind = parser.name()?;
            match kind.as_str() {
                "query" | "mutation" | "subscription" => {
                    document.operations.push(parser.operation(kind)?);
                }
                "fragment" => document.fragments.push(parser.fragment()?),
                _ => return Err(Fault::Syntax),
            }
        }
        Ok(document)
    }
}

struct Parser {
    rest: std::iter::Peekable<std::vec::IntoIter<Token>>,
}

fn deeper(depth: usize) -> Result<usize, Fault> {
    (depth < MAX_DEPTH).then_some(depth + 1).ok_or(Fault::Bound)
}

impl Parser {
    fn takes(&mut self, mark: u8) -> bool {
        self.rest.next_if_eq(&Token::Mark(mark)).is_some()
    }

    fn expect(&mut self, mark: u8) -> Result<(), Fault> {
        self.takes(mark).then_some(()).ok_or(Fault::Syntax)
    }

    fn is(&mut self, mark: u8) -> bool {
        self.rest.peek() == Some(&Token::Mark(mark))
    }

    fn name(&mut self) -> Result<String, Fault> {
        match self.rest.next() {
            Some(Token::Name(name)) => Ok(name),
            _ => Err(Fault::Syntax),
        }
    }

    fn operation(&mut self, kind: String) -> Result<Operation, Fault> {
        let name = match self.rest.peek() {
            Some(Token::Name(_)) => Some(self.name()?),
            _ => None,
        };
        let mut variables: Vec<(String, Option<Literal>)> = Vec::new();
        let mut names = HashSet::new();
        if self.takes(b'(') {
            while !self.takes(b')') {
                self.expect(b'$')?;
                let name = self.name()?;
                self.expect(b':')?;
                self.kind(0)?;
                let default = match self.takes(b'=') {
                    true => Some(self.value(0)?),
                    false => None,
                };
                self.directives(0)?;
                if !names.insert(name.clone()) {
                    return Err(Fault::Twice);
                }
                variables.push((name, default));
            }
            if variables.is_empty() {
                return Err(Fault::Syntax);
            }
        }
        self.directives(0)?;
        Ok(Operation {
            kind,
            name,
            variables,
            selections: self.selections(0)?,
        })
    }

    fn fragment(&mut self) -> Result<(String, Vec<Selection>), Fault> {
        let name = self.name()?;
        if name == "on" || self.name()? != "on" {
            return Err(Fault::Syntax);
        }
        self.name()?;
        self.directives(0)?;
        Ok((name, self.selections(0)?))
    }

    fn kind(&mut self, depth: usize) -> Result<(), Fault> {
        if self.takes(b'[') {
            self.kind(deeper(depth)?)?;
            self.expect(b']')?;
        } else {
            self.name()?;
        }
        self.takes(b'!');
        Ok(())
    }

    fn directives(&mut self, depth: usize) -> Result<(), Fault> {
        while self.takes(b'@') {
            self.name()?;
            self.arguments(depth)?;
        }
        Ok(())
    }

    fn arguments(&mut self, depth: usize) -> Result<Vec<(String, Literal)>, Fault> {
        if !self.takes(b'(') {
            return Ok(Vec::new());
        }
        let arguments = self.members(b')', depth)?;
        (!arguments.is_empty())
            .then_some(arguments)
            .ok_or(Fault::Syntax)
    }

    /// Names with values, to this end; none twice.
    fn members(&mut self, end: u8, depth: usize) -> Result<Vec<(String, Literal)>, Fault> {
        let mut members: Vec<(String, Literal)> = Vec::new();
        let mut names = HashSet::new();
        while !self.takes(end) {
            let name = self.name()?;
            self.expect(b':')?;
            if !names.insert(name.clone()) {
                return Err(Fault::Twice);
            }
            members.push((name, self.value(depth)?));
        }
        Ok(members)
    }

    fn value(&mut self, depth: usize) -> Result<Literal, Fault> {
        let depth = deeper(depth)?;
        match self.rest.next() {
            Some(Token::Mark(b'$')) => Ok(Literal::Variable(self.name()?)),
            Some(Token::Number(number)) => Ok(Literal::Number(number)),
            Some(Token::Text(text)) => Ok(Literal::Text(text)),
            Some(Token::Name(word)) => Ok(Literal::Word(word)),
            Some(Token::Mark(b'[')) => {
                let mut list = Vec::new();
                while !self.takes(b']') {
                    list.push(self.value(depth)?);
                }
                Ok(Literal::List(list))
            }
            Some(Token::Mark(b'{')) => Ok(Literal::Object(self.members(b'}', depth)?)),
            _ => Err(Fault::Syntax),
        }
    }

    fn selections(&mut self, depth: usize) -> Result<Vec<Selection>, Fault> {
        let depth = deeper(depth)?;
        self.expect(b'{')?;
        let mut selections = Vec::new();
        while !self.takes(b'}') {
            selections.push(self.selection(depth)?);
        }
        (!selections.is_empty())
            .then_some(selections)
            .ok_or(Fault::Syntax)
    }

    fn selection(&mut self, depth: usize) -> Result<Selection, Fault> {
        if self.rest.next_if_eq(&Token::Spread).is_none() {
            let mut name = self.name()?;
            if self.takes(b':') {
                // Before it was an alias.
                name = self.name()?;
            }
            let arguments = self.arguments(depth)?;
            self.directives(depth)?;
            if self.is(b'{') {
                self.selections(depth)?;
            }
            return Ok(Selection::Field { name, arguments });
        }
        let named = match self.rest.peek() {
            Some(Token::Name(_)) => Some(self.name()?),
            _ => None,
        };
        match named {
            Some(name) if name != "on" => {
                self.directives(depth)?;
                return Ok(Selection::Spread(name));
            }
            Some(_) => {
                self.name()?;
            }
            None => {}
        }
        self.directives(depth)?;
        Ok(Selection::Inline(self.selections(depth)?))
    }
}
