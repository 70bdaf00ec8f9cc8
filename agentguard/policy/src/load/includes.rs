//! What documents include has to be among them: left out, a denial would be missed by nobody.

use std::collections::HashSet;
use std::path::Path;

use super::{Parsed, Report};
use crate::diagnostic::quoted;
use crate::sources::{included, place_of};

/// Tells what is not there. `told`: somebody has tried to read it, and told what could not be.
pub(super) fn check(sources: &[Parsed], told: bool, report: &mut Report) {
    let there: HashSet<String> = sources
        .iter()
        .map(|source| place_of(Path::new(&source.path)))
        .collect();
    for source in sources {
        let include = source.document.as_ref().and_then(|it| it.include.as_ref());
        let Some(list) = include else {
            continue;
        };
        report.path.clone_from(&source.path);
        if list.value.is_empty() && source.is_whole(list) {
            let hint = "leave `include` out where nothing is included";
            report.error(list.place, "`include` is empty", hint);
        }
        for entry in &list.value {
            if told || there.contains(&included(&source.path, &entry.value)) {
                continue;
            }
            report.error(
                entry.place,
                format!("`{}` is included and was not read", quoted(&entry.value)),
                "read the policy from the document that includes the others",
            );
        }
    }
}
