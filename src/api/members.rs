//! Structs as JSON objects, member by member. Not by serde's derive: its visitors for the three requests and the row of
//! `list` cost 60 KB of code, a thirtieth of the binary.

use crate::log::Stream;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A struct that is a JSON object. What is absent there, or has the wrong type, is the default.
pub trait Members: Sized {
    /// The names of its members.
    #[cfg(test)]
    const MEMBERS: &[&str];
    fn from_members(members: &Map<String, Value>) -> Self;
    /// Without those that are not set.
    fn members(&self) -> Map<String, Value>;
}

/// A member of such a struct.
pub trait Member: Default {
    fn read(value: &Value) -> Option<Self>;
    /// `None` if it is not set.
    fn write(&self) -> Option<Value>;
}

/// Defines such a struct; `member as "name"` where the name in JSON is another.
macro_rules! members {
    ($(#[$doc:meta])* $struct:ident { $($(#[$member_doc:meta])* $member:ident $(as $name:literal)?: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $struct {
            $($(#[$member_doc])* pub $member: $type,)*
        }

        impl crate::api::members::Members for $struct {
            #[cfg(test)]
            const MEMBERS: &[&str] = &[$(crate::api::members::name!($member $($name)?),)*];

            fn from_members(members: &serde_json::Map<String, serde_json::Value>) -> $struct {
                use crate::api::members::{name, read};
                $struct { $($member: read(members, name!($member $($name)?)),)* }
            }

            fn members(&self) -> serde_json::Map<String, serde_json::Value> {
                use crate::api::members::{Member, name, write};
                let mut members = serde_json::Map::new();
                $(write(&mut members, name!($member $($name)?), self.$member.write());)*
                members
            }
        }
    };
}
pub(super) use members;

/// The name of a member in JSON.
macro_rules! name {
    ($member:ident) => {
        stringify!($member)
    };
    ($member:ident $name:literal) => {
        $name
    };
}
pub(super) use name;

pub fn read<T: Member>(members: &Map<String, Value>, name: &str) -> T {
    members.get(name).and_then(T::read).unwrap_or_default()
}

pub fn write(members: &mut Map<String, Value>, name: &str, value: Option<Value>) {
    if let Some(value) = value {
        members.insert(name.into(), value);
    }
}

/// Integers that fit their type.
macro_rules! integer {
    ($($type:ty)*) => {
        $(impl Member for Option<$type> {
            fn read(value: &Value) -> Option<Self> {
                value.as_i64().and_then(|number| number.try_into().ok()).map(Some)
            }
            fn write(&self) -> Option<Value> {
                self.map(Value::from)
            }
        })*
    };
}
integer!(i32 i64 u32 u64);

/// Members that are always there.
macro_rules! required {
    ($($type:ty: $read:expr, $write:expr;)*) => {
        $(impl crate::api::members::Member for $type {
            fn read(value: &serde_json::Value) -> Option<Self> {
                $read(value)
            }
            fn write(&self) -> Option<serde_json::Value> {
                Some($write(self))
            }
        })*
    };
}
pub(super) use required;
required! {
    i32: |value: &Value| value.as_i64().and_then(|number| number.try_into().ok()), |number: &i32| Value::from(*number);
    u64: Value::as_u64, |number: &u64| Value::from(*number);
}

/// Enums whose names serde knows.
macro_rules! named {
    ($($type:ty)*) => {
        $(impl crate::api::members::Member for Option<$type> {
            fn read(value: &serde_json::Value) -> Option<Self> {
                serde::Deserialize::deserialize(value).ok().map(Some)
            }
            fn write(&self) -> Option<serde_json::Value> {
                self.and_then(|value| serde_json::to_value(value).ok())
            }
        })*
    };
}
pub(super) use named;
named!(Stream);

impl Member for Option<String> {
    fn read(value: &Value) -> Option<Self> {
        value.as_str().map(|text| Some(text.into()))
    }
    fn write(&self) -> Option<Value> {
        self.as_deref().map(Value::from)
    }
}

impl Member for Map<String, Value> {
    fn read(value: &Value) -> Option<Self> {
        value.as_object().cloned()
    }
    fn write(&self) -> Option<Value> {
        Some(Value::Object(self.clone()))
    }
}

impl Member for Option<f64> {
    fn read(value: &Value) -> Option<Self> {
        value.as_f64().map(Some)
    }
    fn write(&self) -> Option<Value> {
        self.map(Value::from)
    }
}

/// Not set if it is empty.
impl Member for String {
    fn read(value: &Value) -> Option<Self> {
        value.as_str().map(String::from)
    }
    fn write(&self) -> Option<Value> {
        (!self.is_empty()).then(|| self.as_str().into())
    }
}

/// Not set if there are none.
impl Member for Vec<String> {
    fn read(value: &Value) -> Option<Self> {
        value.as_array().map(|texts| texts.iter().filter_map(Value::as_str).map(String::from).collect())
    }
    fn write(&self) -> Option<Value> {
        (!self.is_empty()).then(|| self.iter().map(String::as_str).collect())
    }
}

/// Not set if there are none.
impl Member for Vec<u16> {
    fn read(value: &Value) -> Option<Self> {
        let number = |value: &Value| value.as_u64()?.try_into().ok();
        value.as_array().map(|numbers| numbers.iter().filter_map(number).collect())
    }
    fn write(&self) -> Option<Value> {
        (!self.is_empty()).then(|| self.iter().copied().collect())
    }
}

/// Not set if it is false.
impl Member for bool {
    fn read(value: &Value) -> Option<Self> {
        value.as_bool()
    }
    fn write(&self) -> Option<Value> {
        self.then_some(Value::Bool(true))
    }
}

/// Not set if there are none.
impl Member for BTreeMap<String, String> {
    fn read(value: &Value) -> Option<Self> {
        let text = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.into()));
        value.as_object().map(|members| members.iter().filter_map(text).collect())
    }
    fn write(&self) -> Option<Value> {
        let members = self.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str())));
        (!self.is_empty()).then(|| Value::Object(members.collect()))
    }
}
