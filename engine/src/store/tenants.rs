//! How tenants stand in rows.
//!
//! The tenant is part of keys, and no part of a key may be null: rows of none have the empty text.

/// The tenant as its column holds it.
pub(super) fn column(tenant: Option<&str>) -> &str {
    tenant.unwrap_or_default()
}

/// What a column says of the tenant.
pub(super) fn owner(column: String) -> Option<String> {
    Some(column).filter(|tenant| !tenant.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_holds_a_tenant_or_none() {
        for tenant in [None, Some("acme")] {
            assert_eq!(owner(column(tenant).to_owned()).as_deref(), tenant);
        }
    }
}
