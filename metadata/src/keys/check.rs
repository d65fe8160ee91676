//! Whether the keys that are here are this cluster's.
//!
//! Invariant: the check that counts is the last one that was journaled. It is wrapped anew whenever a key is replaced, and one from
//! before that fits keys that nobody needs any more, and none that anybody has.

use super::{KEY_CHECK_SETTING, KeyError, Keys, coming_path};
use bytes::Bytes;
use codec::effect::SettingRow;
use codec::encrypt::{WrapError, is_wrapped_twice, unwrap_any};

pub(super) const KEY_CHECK_PURPOSE: &[u8] = b"stele 2026 key check v1";
const KEY_CHECK_SECRET: &[u8] = b"this key unwraps";

impl Keys {
    /// The setting that is journaled at first start.
    pub fn check_setting(&self) -> Result<SettingRow, KeyError> {
        let value = self.wrap(KEY_CHECK_PURPOSE, KEY_CHECK_SECRET)?;
        Ok(SettingRow { name: KEY_CHECK_SETTING.to_owned(), value: Bytes::from(value) })
    }

    /// Refuses a key that does not unwrap the journaled setting. A second key may be new: then nothing is wrapped by it yet.
    pub fn check(&self, journaled: &SettingRow) -> Result<(), KeyError> {
        self.opens(journaled)?;
        let twice = is_wrapped_twice(&journaled.value);
        for (number, (key, file)) in self.0.keys.iter().zip(&self.0.files).enumerate() {
            if unwrap_any([key], KEY_CHECK_PURPOSE, &journaled.value).is_ok() {
                continue;
            }
            let is_new = number > 0 && (!twice || file.extension().is_some_and(|of| of == "new"));
            match (is_new, number) {
                (true, _) => {
                    tracing::warn!(file = %file.display(), "this key is new: everything is wrapped by it, too. Keep a copy of it");
                }
                (false, 0) => return Err(KeyError::First(file.clone())),
                (false, _) => {
                    return Err(KeyError::Second { file: file.clone(), coming: coming_path(&self.0.place) });
                }
            }
        }
        Ok(())
    }

    /// Refuses keys of which none unwraps the journaled setting. Enough for reading, which does no harm.
    pub fn opens(&self, journaled: &SettingRow) -> Result<(), KeyError> {
        let failed = |source: WrapError| KeyError::Unwrap { what: "the key check".to_owned(), source };
        let secret = unwrap_any(&self.0.keys, KEY_CHECK_PURPOSE, &journaled.value).map_err(failed)?;
        match secret[..] == *KEY_CHECK_SECRET {
            true => Ok(()),
            false => Err(KeyError::Secret("the key check".to_owned())),
        }
    }
}
