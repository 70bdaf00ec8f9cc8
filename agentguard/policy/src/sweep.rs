//! The ports of one destination, cut where the rules that match change.

use std::collections::{BTreeMap, BTreeSet};

use agentguard_common::map::{TCP, UDP};
use agentguard_model::Handling;

use crate::index::Position;
use crate::rule::Rule;
use crate::strategy::{Rank, Standing};

/// The rules that match a run of ports, by what they say, on a flow whose request is not seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Active {
    /// Denials in force.
    pub(crate) denials: BTreeSet<Position>,
    /// Denials on paper.
    pub(crate) paper_denials: BTreeSet<Position>,
    /// Denials, in force or on paper, that depend on more, above all the request.
    pub(crate) unseen_denials: BTreeSet<Position>,
    /// Denials in force that may match, depending on the address behind a name.
    pub(crate) possible_denials: BTreeSet<Position>,
    /// Denials on paper that may match, depending on the same.
    pub(crate) possible_paper_denials: BTreeSet<Position>,
    /// Allowances in force that go through the proxy, spliced or inspected.
    pub(crate) proxied: BTreeSet<Position>,
    /// Allowances in force that do not.
    pub(crate) direct: BTreeSet<Position>,
    /// Allowances in force that depend on more, above all the request.
    pub(crate) unseen_allowances: BTreeSet<Position>,
    /// Whether ranks decide, so that those of [`Self::unseen_allowances`] beside a denial are above it.
    ranked: bool,
}

impl Active {
    /// Whether a rule in force allows it, or may once the request is seen.
    pub(crate) fn may_be_allowed(&self) -> bool {
        !self.proxied.is_empty() || !self.direct.is_empty() || !self.unseen_allowances.is_empty()
    }

    /// Whether a denial in force holds, whatever the request.
    pub(crate) fn denial(&self) -> Option<&Position> {
        let overruled = self.ranked && !self.unseen_allowances.is_empty();
        self.denials.first().filter(|_| !overruled)
    }

    /// Without what does not count beside rules of a higher rank.
    fn ranked(candidates: &BTreeMap<(Position, bool), &Candidate<'_>>) -> Self {
        let mut standing = Standing::default();
        for candidate in candidates.values().filter(|it| it.is_certain()) {
            if candidate.rule.info.in_force() {
                standing.note(candidate.rank, !candidate.rule.allows());
            }
        }
        let mut active = Self {
            ranked: true,
            ..Self::default()
        };
        for candidate in candidates.values() {
            let rule = candidate.rule;
            let certain = candidate.is_certain() || !rule.info.in_force();
            if standing.counts(candidate.rank, !rule.allows(), certain)
                && let Some(kind) = active.kind(candidate)
            {
                kind.insert(candidate.position);
            }
        }
        active
    }

    fn kind(&mut self, candidate: &Candidate<'_>) -> Option<&mut BTreeSet<Position>> {
        let rule = candidate.rule;
        Some(match (rule.allows(), rule.info.in_force()) {
            // What would be changed on paper has to be seen, as what is denied there.
            (true, false) if rule.changes.is_some() => &mut self.unseen_denials,
            (true, false) => return None,
            (true, true) if !rule.is_static() => &mut self.unseen_allowances,
            (true, true) if rule.info.handling == Handling::Direct => &mut self.direct,
            (true, true) => &mut self.proxied,
            (false, true) if candidate.possible => &mut self.possible_denials,
            (false, false) if candidate.possible => &mut self.possible_paper_denials,
            (false, _) if !rule.is_static() => &mut self.unseen_denials,
            (false, true) => &mut self.denials,
            (false, false) => &mut self.paper_denials,
        })
    }
}

/// A rule that matches the destination.
#[derive(Clone, Copy)]
pub(crate) struct Candidate<'a> {
    pub(crate) position: Position,
    pub(crate) rule: &'a Rule,
    /// Whether that depends on the address behind the name, which is not known.
    pub(crate) possible: bool,
    /// Where it stands among the others, if that matters.
    pub(crate) rank: Rank,
}

impl Candidate<'_> {
    /// Whether it matches, whatever is not known yet.
    fn is_certain(&self) -> bool {
        !self.possible && self.rule.is_static()
    }
}

/// The transports, as the kernel's bits.
pub(crate) const TRANSPORTS: [u8; 2] = [TCP, UDP];

/// Calls `visit` with each run of ports that at least one candidate matches over a transport, in
/// order. `ranks`: whether those of a lower rank do not count.
pub(crate) fn sweep(
    candidates: &[Candidate<'_>],
    transport: u8,
    ranks: bool,
    mut visit: impl FnMut(u16, u16, &Active),
) {
    // (port from which it holds, whether it begins or ends, which)
    let mut changes: Vec<(u32, bool, &Candidate<'_>)> = Vec::new();
    for candidate in candidates {
        if candidate.rule.transports & transport == 0 {
            continue;
        }
        for (first, last) in candidate.rule.ports.ranges() {
            changes.push((u32::from(*first), true, candidate));
            changes.push((u32::from(*last) + 1, false, candidate));
        }
    }
    changes.sort_by_key(|(port, begins, candidate)| (*port, *begins, candidate.position));
    let mut active = Active::default();
    let mut open = 0usize;
    // A denial can be there by the name and, perhaps, by the address.
    let mut here_now: BTreeMap<(Position, bool), &Candidate<'_>> = BTreeMap::new();
    let mut rest = changes.as_slice();
    while let Some((port, _, _)) = rest.first() {
        let here = rest.partition_point(|(p, _, _)| p <= port);
        let (now, later) = rest.split_at(here);
        for (_, begins, candidate) in now {
            let key = (candidate.position, candidate.possible);
            if *begins {
                here_now.insert(key, candidate);
            } else {
                here_now.remove(&key);
            }
            if let Some(kind) = active.kind(candidate) {
                if *begins {
                    kind.insert(candidate.position);
                    open += 1;
                } else {
                    kind.remove(&candidate.position);
                    open = open.saturating_sub(1);
                }
            }
        }
        if let Some((next, _, _)) = later.first()
            && open > 0
            && let (Ok(first), Ok(last)) = (u16::try_from(*port), u16::try_from(next - 1))
        {
            if ranks {
                visit(first, last, &Active::ranked(&here_now));
            } else {
                visit(first, last, &active);
            }
        }
        rest = later;
    }
}
