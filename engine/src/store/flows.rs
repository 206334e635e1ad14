//! The order of versions: SemVer, not text.

use std::cmp::Ordering;

use flowmonkey_core::execution::FlowReference;
use semver::Version;

use super::model::PublishedFlow;

/// The status of versions that start.
const PUBLISHED: &str = "published";

/// The latest version with the status `published`, out of references and their statuses.
pub(super) fn latest(versions: Vec<(FlowReference, String)>) -> Option<FlowReference> {
    let published = versions.into_iter().filter(|(_, status)| status == PUBLISHED);
    published.map(|(reference, _)| reference).max_by(|left, right| by_version(&left.version, &right.version))
}

/// Versions of one flow with their statuses, latest first.
pub(super) fn versions(mut versions: Vec<(FlowReference, String)>) -> Vec<(FlowReference, String)> {
    versions.sort_by(|(left, _), (right, _)| by_version(&right.version, &left.version));
    versions
}

/// By tenant and id, and within an id the latest version first.
pub(super) fn latest_first(mut flows: Vec<PublishedFlow>) -> Vec<PublishedFlow> {
    flows.sort_by(|left, right| {
        let (one, other) = (&left.flow, &right.flow);
        let by_name = left.tenant_id.cmp(&right.tenant_id).then_with(|| one.id.cmp(&other.id));
        by_name.then_with(|| by_version(&other.version, &one.version))
    });
    flows
}

/// SemVer order; what is no SemVer comes before all that is.
fn by_version(left: &str, right: &str) -> Ordering {
    Version::parse(left).ok().cmp(&Version::parse(right).ok()).then_with(|| left.cmp(right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_compared_as_numbers_and_pre_releases_come_first() {
        assert_eq!(by_version("1.10.0", "1.9.0"), Ordering::Greater);
        assert_eq!(by_version("2.0.0-rc.1", "2.0.0"), Ordering::Less);
        assert_eq!(by_version("latest", "0.0.1"), Ordering::Less);
    }
}
