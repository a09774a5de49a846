//! Requests whose members are the parameters of a tool, to and from JSON. Not by serde's derive: its visitors for the three
//! requests cost 30 KB of code, and the values have been checked against their parameters already.

use super::params::Action;
use crate::log::Stream;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A request of a tool.
pub trait Request: Sized {
    /// The names of its members.
    #[cfg(test)]
    const MEMBERS: &[&str];
    /// From values that fit their parameters; what does not is left out.
    fn from_arguments(arguments: Map<String, Value>) -> Self;
    /// The parameters that it sets, by name.
    fn arguments(&self) -> Map<String, Value>;
}

/// A member of a request.
pub trait Member: Default {
    fn read(value: &Value) -> Option<Self>;
    /// `None` if it is not set.
    fn write(&self) -> Option<Value>;
}

/// Defines a request.
macro_rules! request {
    ($(#[$doc:meta])* $name:ident { $($member:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $name {
            $(pub $member: $type,)*
        }

        impl Request for $name {
            #[cfg(test)]
            const MEMBERS: &[&str] = &[$(stringify!($member),)*];

            fn from_arguments(arguments: Map<String, Value>) -> $name {
                let get = |name: &str| arguments.get(name);
                $name { $($member: crate::api::request::read(get(stringify!($member))),)* }
            }

            fn arguments(&self) -> Map<String, Value> {
                let mut arguments = Map::new();
                $(crate::api::request::write(&mut arguments, stringify!($member), &self.$member);)*
                arguments
            }
        }
    };
}
pub(super) use request;

pub fn read<T: Member>(value: Option<&Value>) -> T {
    value.and_then(T::read).unwrap_or_default()
}

pub fn write(arguments: &mut Map<String, Value>, name: &str, member: &impl Member) {
    if let Some(value) = member.write() {
        arguments.insert(name.into(), value);
    }
}

/// An integer that fits its type.
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
integer!(i64 u32 u64);

impl Member for Option<String> {
    fn read(value: &Value) -> Option<Self> {
        value.as_str().map(|text| Some(text.into()))
    }
    fn write(&self) -> Option<Value> {
        self.as_deref().map(Value::from)
    }
}

impl Member for Option<Stream> {
    fn read(value: &Value) -> Option<Self> {
        value.as_str().map(Stream::from_name)
    }
    fn write(&self) -> Option<Value> {
        self.map(|stream| stream.name().into())
    }
}

impl Member for bool {
    fn read(value: &Value) -> Option<Self> {
        value.as_bool()
    }
    fn write(&self) -> Option<Value> {
        self.then_some(Value::Bool(true))
    }
}

impl Member for Action {
    fn read(value: &Value) -> Option<Self> {
        Action::ALL.into_iter().find(|action| value.as_str() == Some(action.name()))
    }
    fn write(&self) -> Option<Value> {
        Some(self.name().into())
    }
}

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
