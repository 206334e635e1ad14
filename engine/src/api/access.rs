//! What a route asks of its caller: a scope, said in its signature.

use std::marker::PhantomData;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::problem::{ErrorClass, Problem, no_route};
use super::request::Parameters;
use crate::access::{Principal, Scope, Visibility};

/// A caller that has the scope which the route asks for.
pub(super) struct Access<S> {
    principal: Principal,
    scope: PhantomData<fn() -> S>,
}

/// A scope as a type.
pub(super) trait Demand {
    const SCOPE: Scope;
}

macro_rules! demands {
    ($($name:ident),+) => {$(
        pub(super) enum $name {}
        impl Demand for $name {
            const SCOPE: Scope = Scope::$name;
        }
    )+};
}
demands!(Viewer, Operator, Deployer, Admin);

impl<S> Access<S> {
    /// Who it is.
    pub(super) fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Whose the rows are that the request is about: the caller's own, or those of the tenant that it names; without both
    /// those of none.
    ///
    /// # Errors
    /// Another tenant than the caller's own, in words for the field or parameter `tenantId`.
    pub(super) fn tenant(&self, named: Option<String>) -> Result<Option<String>, &'static str> {
        match (&self.principal.visibility, named) {
            (_, Some(named)) if named.is_empty() => Err("`tenantId` is empty"),
            (Visibility::All, named) => Ok(named),
            (Visibility::Tenant(own), Some(named)) if *named != **own => {
                Err("`tenantId` is not the caller's own")
            }
            (Visibility::Tenant(own), _) => Ok(Some((**own).to_owned())),
        }
    }

    /// As [`Self::tenant`], of the parameter `tenantId`.
    pub(super) fn tenant_of(&self, parameters: &mut Parameters) -> Option<String> {
        let named = parameters.one("tenantId");
        self.tenant(named).map_err(|refusal| parameters.error("tenantId", refusal)).ok().flatten()
    }

    /// The only tenant of which lists show something.
    pub(super) fn only(&self) -> Option<String> {
        self.principal.visibility.tenant().map(ToOwned::to_owned)
    }

    /// That the caller sees all rows: what the process says of itself has no tenant.
    ///
    /// # Errors
    /// As for a path that does not exist.
    pub(super) fn sees_all(&self) -> Result<(), Problem> {
        match &self.principal.visibility {
            Visibility::All => Ok(()),
            Visibility::Tenant(_) => Err(no_route()),
        }
    }

    /// What a verb asks for beside that of its route.
    ///
    /// # Errors
    /// When the caller may not.
    pub(super) fn demand<T: Demand>(&self) -> Result<(), Problem> {
        if self.principal.may(T::SCOPE) { Ok(()) } else { Err(refused(T::SCOPE)) }
    }

    /// Whose rows it sees.
    pub(super) fn visibility(&self) -> &Visibility {
        &self.principal.visibility
    }
}

impl<T: Send + Sync, S: Demand> FromRequestParts<T> for Access<S> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &T) -> Result<Self, Problem> {
        // The guard has put it there; without it nothing is allowed.
        let principal = parts.extensions.get::<Principal>().cloned().ok_or_else(|| {
            Problem::new(ErrorClass::Unauthenticated, "KEY_MISSING", "it is not known who asks")
        })?;
        if !principal.may(S::SCOPE) {
            return Err(refused(S::SCOPE));
        }
        Ok(Self { principal, scope: PhantomData })
    }
}

fn refused(scope: Scope) -> Problem {
    let detail = format!("this needs a key with the scope `{scope}`");
    Problem::new(ErrorClass::Forbidden, "SCOPE_MISSING", detail)
}
