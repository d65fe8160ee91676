//! Which version of the effects an entry needs.
//!
//! A field that a row got later counts as said when it is not what its absence means. Programs of two releases that run side by side
//! read each other's entries for as long as neither says what the other would drop: so each later field of each row is asked for
//! here, or a program of before would keep the row without it and write it back without it.

use super::{AccountRow, BucketRow, Content, DomainRow, DriveRow, EffectKind, Effects, PartRow, UploadRow, VersionRow};

impl Effects {
    /// The first version that has all of these kinds and fields. An entry says no more than it needs: programs of two versions that
    /// run side by side read each other's entries for as long as neither writes what the other does not know.
    pub fn version(&self) -> u16 {
        self.effects.iter().filter_map(|effect| effect.kind.as_ref()).map(EffectKind::version).max().unwrap_or(1)
    }
}

impl EffectKind {
    /// The version of the effects that brought this kind, or the latest of its fields that it says.
    fn version(&self) -> u16 {
        match self {
            EffectKind::PutNode(_) | EffectKind::GrantEpoch(_) => 2,
            EffectKind::PutReplication(row) if row.versions => 4,
            EffectKind::PutReplication(_) | EffectKind::DeleteReplication(_) | EffectKind::ReplicationQueue(_) => 2,
            EffectKind::PutDrive(row) if row.says_more_than_version_1() => 2,
            EffectKind::PutLevel(_) => 3,
            EffectKind::PutVersion(row) if row.says_more_than_version_4() => 5,
            EffectKind::PutBucket(row) if row.says_more_than_version_3() => 4,
            EffectKind::PutVersion(row) if row.says_more_than_version_3() => 4,
            EffectKind::PutUpload(row) if row.says_more_than_version_3() => 4,
            EffectKind::PutPart(row) if row.says_more_than_version_3() => 4,
            EffectKind::PutAccount(row) if row.says_more_than_version_3() => 4,
            EffectKind::PutDomain(row) if row.says_more_than_version_3() => 4,
            EffectKind::PutBucketConfig(_) | EffectKind::DeleteBucketConfig(_) => 4,
            EffectKind::PutUser(_) | EffectKind::DeleteUser(_) => 4,
            EffectKind::PutAccessKey(_) | EffectKind::DeleteAccessKey(_) => 4,
            EffectKind::PutPolicy(_) | EffectKind::DeletePolicy(_) => 4,
            EffectKind::PutRole(_) | EffectKind::DeleteRole(_) => 4,
            EffectKind::PutGroup(_) | EffectKind::DeleteGroup(_) => 4,
            EffectKind::PutKmsKey(_) | EffectKind::Notices(_) => 4,
            _ => 1,
        }
    }
}

impl DriveRow {
    /// Whether it says what programs before effect version 2 would drop.
    fn says_more_than_version_1(&self) -> bool {
        !self.rack.is_empty() || !self.site.is_empty() || self.cell != 0
    }
}

impl BucketRow {
    /// Whether it says what programs before effect version 4 would drop.
    fn says_more_than_version_3(&self) -> bool {
        let kept = self.versioning != 0 || self.lock || self.default_retention.is_some();
        let seen = self.ownership != 0 || self.block.is_some() || self.acl.is_some();
        let limits = self.max_bytes != 0 || self.max_objects != 0;
        kept || seen || limits || self.encryption.is_some() || !self.tags.is_empty() || self.config_seq != 0
    }
}

impl VersionRow {
    /// Whether it says what programs before effect version 4 would drop. A delete marker and a version's id are no more than the first
    /// version could say: no bucket had them before one could say that it keeps versions, which is of version 4.
    fn says_more_than_version_3(&self) -> bool {
        let kept = self.retention.is_some() || self.hold || self.clock_ms != 0 || self.restore.is_some();
        let content = self.content.as_ref().is_some_and(Content::says_more_than_version_3);
        kept || content || !self.tags.is_empty() || self.acl.is_some() || !self.owner.is_empty()
    }

    /// Whether it says what programs before effect version 5 would drop.
    fn says_more_than_version_4(&self) -> bool {
        #[cfg(feature = "next-release")]
        return self.level != 0;
        #[cfg(not(feature = "next-release"))]
        false
    }
}

impl Content {
    /// Whether it says what programs before effect version 4 would drop.
    fn says_more_than_version_3(&self) -> bool {
        !self.parts.is_empty() || self.sealed.is_some()
    }
}

impl UploadRow {
    /// Whether it says what programs before effect version 4 would drop.
    fn says_more_than_version_3(&self) -> bool {
        let kept = self.retention.is_some() || self.hold || self.sealed.is_some() || self.clock_ms != 0;
        kept || !self.tags.is_empty() || self.acl.is_some() || !self.owner.is_empty()
    }
}

impl PartRow {
    /// Whether it says what programs before effect version 4 would drop.
    fn says_more_than_version_3(&self) -> bool {
        self.content.as_ref().is_some_and(Content::says_more_than_version_3)
    }
}

impl AccountRow {
    /// Whether it says what programs before effect version 4 would drop.
    fn says_more_than_version_3(&self) -> bool {
        !self.email.is_empty() || self.block.is_some() || self.max_bytes != 0 || self.max_objects != 0
    }
}

impl DomainRow {
    /// Whether it says what programs before effect version 4 would drop.
    fn says_more_than_version_3(&self) -> bool {
        self.class != 0 || !self.key.is_empty()
    }
}
