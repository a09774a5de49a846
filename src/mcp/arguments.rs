//! Arguments of a tool: described as data, from which both the schema and the check are made. What does not fit gets a
//! text that tells a model how to correct itself.

use crate::fault::Fault;
use serde_json::{Map, Value, json};

/// What a parameter takes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Text,
    /// One of these.
    Choice(&'static [&'static str]),
    /// A whole number in this range.
    Integer(i64, i64),
    Flag,
    /// An object whose values are strings.
    Strings,
}

pub struct Parameter {
    pub name: &'static str,
    pub kind: Kind,
    /// For the model. Says the default.
    pub help: &'static str,
    pub is_required: bool,
}

/// A parameter that may be left out.
pub const fn optional(name: &'static str, kind: Kind, help: &'static str) -> Parameter {
    Parameter { name, kind, help, is_required: false }
}
pub const fn required(name: &'static str, kind: Kind, help: &'static str) -> Parameter {
    Parameter { name, kind, help, is_required: true }
}

/// The JSON Schema of all parameters (2020-12; flat, so that every client understands it).
pub fn schema(parameters: &[Parameter]) -> Value {
    let properties: Map<String, Value> = parameters.iter().map(|p| (p.name.to_string(), property(p))).collect();
    let names: Vec<&str> = parameters.iter().filter(|p| p.is_required).map(|p| p.name).collect();
    let mut schema = json!({"type": "object", "properties": properties, "additionalProperties": false});
    if !names.is_empty() {
        schema["required"] = json!(names);
    }
    schema
}

fn property(parameter: &Parameter) -> Value {
    let mut property = match parameter.kind {
        Kind::Text => json!({"type": "string"}),
        Kind::Choice(choices) => json!({"type": "string", "enum": choices}),
        Kind::Integer(least, most) => json!({"type": "integer", "minimum": least, "maximum": most}),
        Kind::Flag => json!({"type": "boolean"}),
        Kind::Strings => json!({"type": "object", "additionalProperties": {"type": "string"}}),
    };
    if !parameter.help.is_empty() {
        property["description"] = json!(parameter.help);
    }
    property
}

/// Arguments that fit their parameters.
pub struct Arguments<'a>(&'a Map<String, Value>);

impl<'a> Arguments<'a> {
    /// Checks names and types. `null` counts as absent, and a number in quotes as a number: models write both.
    pub fn check(given: &'a Map<String, Value>, parameters: &[Parameter]) -> Result<Arguments<'a>, Fault> {
        let names = || parameters.iter().map(|p| p.name).collect::<Vec<_>>().join(", ");
        for (name, value) in given {
            let parameter = parameters.iter().find(|p| p.name == name);
            let parameter = parameter
                .ok_or_else(|| Fault::invalid(format!("there is no parameter '{name}'; there are: {}", names())))?;
            if !value.is_null() {
                check_value(parameter, value)?;
            }
        }
        let arguments = Arguments(given);
        match parameters.iter().find(|p| p.is_required && arguments.get(p.name).is_none()) {
            Some(missing) => {
                Err(Fault::invalid(format!("the parameter '{}' is missing: {}", missing.name, missing.help)))
            }
            None => Ok(arguments),
        }
    }

    /// Those of these names that were given.
    pub fn only(&self, names: &[&str]) -> Map<String, Value> {
        names.iter().filter_map(|name| Some((name.to_string(), self.get(name)?.clone()))).collect()
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }
    pub fn text(&self, name: &str) -> Option<&'a str> {
        self.get(name).and_then(Value::as_str)
    }
    pub fn integer(&self, name: &str) -> Option<i64> {
        self.get(name).and_then(as_integer)
    }
    pub fn flag(&self, name: &str) -> bool {
        self.get(name).and_then(as_flag).unwrap_or(false)
    }
    pub fn strings(&self, name: &str) -> Vec<(&'a str, &'a str)> {
        let members = self.get(name).and_then(Value::as_object);
        members.into_iter().flatten().filter_map(|(k, v)| Some((k.as_str(), v.as_str()?))).collect()
    }
}

fn as_integer(value: &Value) -> Option<i64> {
    let whole = |number: f64| (number.fract() == 0.0 && number.abs() < 1e15).then_some(number as i64);
    value.as_i64().or_else(|| value.as_f64().and_then(whole)).or_else(|| value.as_str()?.trim().parse().ok())
}

fn as_flag(value: &Value) -> Option<bool> {
    value.as_bool().or_else(|| match value.as_str()? {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    })
}

fn check_value(parameter: &Parameter, value: &Value) -> Result<(), Fault> {
    let wanted = match parameter.kind {
        Kind::Text if value.is_string() => return Ok(()),
        Kind::Text => "a string".into(),
        Kind::Choice(choices) if value.as_str().is_some_and(|v| choices.contains(&v)) => return Ok(()),
        Kind::Choice(choices) => format!("one of {}", choices.join(", ")),
        Kind::Integer(least, most) if as_integer(value).is_some_and(|n| (least..=most).contains(&n)) => return Ok(()),
        Kind::Integer(least, most) => format!("a whole number from {least} to {most}"),
        Kind::Flag if as_flag(value).is_some() => return Ok(()),
        Kind::Flag => "true or false".into(),
        Kind::Strings if value.as_object().is_some_and(|o| o.values().all(Value::is_string)) => return Ok(()),
        Kind::Strings => "an object whose values are strings, such as {\"PORT\": \"3000\"}".into(),
    };
    let given = value.to_string();
    let shown: String = given.chars().take(60).collect();
    Err(Fault::invalid(format!("'{}' must be {wanted}, not {shown}", parameter.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAMETERS: [Parameter; 5] = [
        required("action", Kind::Choice(&["start", "stop"]), "What to do."),
        optional("lines", Kind::Integer(1, 100), ""),
        optional("force", Kind::Flag, ""),
        optional("environment", Kind::Strings, ""),
        optional("label", Kind::Text, ""),
    ];

    fn problem(arguments: Value) -> Option<String> {
        Arguments::check(arguments.as_object().unwrap(), &PARAMETERS).err().map(|fault| fault.text)
    }

    #[test]
    fn what_models_write_is_understood() {
        let given =
            json!({"action": "start", "lines": "50", "force": "true", "label": null, "environment": {"A": "b"}});
        let arguments = Arguments::check(given.as_object().unwrap(), &PARAMETERS).ok().unwrap();
        assert_eq!(
            (arguments.integer("lines"), arguments.flag("force"), arguments.text("label")),
            (Some(50), true, None)
        );
        assert_eq!(arguments.strings("environment"), [("A", "b")]);
        let plain = json!({"action": "stop", "force": true, "lines": 7});
        let plain = Arguments::check(plain.as_object().unwrap(), &PARAMETERS).ok().unwrap();
        assert!(plain.flag("force") && plain.integer("lines") == Some(7));
        let whole = json!({"action": "stop", "lines": 5.0});
        assert_eq!(Arguments::check(whole.as_object().unwrap(), &PARAMETERS).ok().unwrap().integer("lines"), Some(5));
    }

    #[test]
    fn what_does_not_fit_is_named_with_what_would() {
        for (given, expected) in [
            (json!({}), "'action' is missing"),
            (json!({"action": null}), "'action' is missing"),
            (json!({"action": "run"}), "one of start, stop, not \"run\""),
            (json!({"action": "stop", "line": 5}), "no parameter 'line'; there are: action, lines"),
            (json!({"action": "stop", "lines": 0}), "from 1 to 100, not 0"),
            (json!({"action": "stop", "lines": 1e300}), "from 1 to 100"),
            (json!({"action": "stop", "lines": 2.5}), "from 1 to 100"),
            (json!({"action": "stop", "lines": []}), "from 1 to 100"),
            (json!({"action": "stop", "force": "yes"}), "true or false"),
            (json!({"action": "stop", "environment": {"A": 1}}), "values are strings"),
            (json!({"action": "stop", "environment": "A=1"}), "values are strings"),
            (json!({"action": "stop", "label": 7}), "a string, not 7"),
        ] {
            let problem = problem(given.clone()).unwrap_or_default();
            assert!(problem.contains(expected), "{given}: {problem}");
        }
    }

    #[test]
    fn the_schema_is_flat_and_complete() {
        let schema = schema(&PARAMETERS);
        assert_eq!(schema["type"], "object");
        assert_eq!(schema["required"], json!(["action"]));
        assert_eq!(schema["properties"]["lines"], json!({"type": "integer", "minimum": 1, "maximum": 100}));
        assert_eq!(schema["properties"].as_object().unwrap().len(), PARAMETERS.len());
    }
}
