use super::*;

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}
fn problem(arguments: Value) -> Option<String> {
    parse::<ControlRequest>(&CTRL, &object(arguments)).err().map(|error| error.to_string())
}

/// A value that a parameter takes.
fn sample(kind: Kind) -> Value {
    match kind {
        Kind::Text => json!("x"),
        Kind::Choice(choices) => json!(choices[0]),
        Kind::Integer(_, most) => json!(most),
        Kind::Flag => json!(true),
        Kind::Strings => json!({"A": "b"}),
    }
}

#[test]
fn every_parameter_is_a_member_of_its_request_and_the_other_way_round() {
    fn check<T: Members>(parameters: &[Parameter]) {
        let all: Map<String, Value> =
            parameters.iter().map(|parameter| (parameter.name.to_string(), sample(parameter.kind))).collect();
        let request: T = parse(parameters, &all).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(request.members(), all);
        let names: Vec<&str> = parameters.iter().map(|parameter| parameter.name).collect();
        assert_eq!(T::MEMBERS, names, "in the order of the table");
        let call = as_call("tool", parameters, &request);
        assert!(all.keys().all(|name| call.contains(&format!(" {name}="))), "{call}");
    }
    check::<ListRequest>(&LIST);
    check::<OutputRequest>(&OUTPUT);
    check::<ControlRequest>(&CTRL);
}

#[test]
fn every_action_is_one_that_the_parameter_takes() {
    let Kind::Choice(names) = CTRL[0].kind else { panic!() };
    for name in names {
        let request: ControlRequest = parse(&CTRL, &object(json!({"action": name}))).unwrap();
        assert_eq!(request.action.name(), *name);
    }
}

#[test]
fn what_models_write_is_understood() {
    let given = json!({"action": "start", "timeout": "40", "force": "true", "label": null, "wait_for": "", "text": "",
                       "environment": {"A": "b"}});
    let request: ControlRequest = parse(&CTRL, &without_empty(&object(given))).unwrap();
    let expected = ControlRequest {
        action: Action::Start,
        timeout: Some(40),
        force: true,
        environment: [("A".to_string(), "b".to_string())].into(),
        text: Some(String::new()),
        ..ControlRequest::default()
    };
    assert_eq!(request, expected);
    let whole: OutputRequest = parse(&OUTPUT, &object(json!({"lines": 5.0, "context": 7}))).unwrap();
    assert_eq!((whole.lines(), whole.context(), whole.max_bytes()), (5, 7, 8000));
}

#[test]
fn what_does_not_fit_is_named_with_what_would() {
    for (given, expected) in [
        (json!({}), "'action' is missing: start, stop"),
        (json!({"action": null}), "'action' is missing"),
        (json!({"action": "run"}), "one of start, stop, restart, input, signal, not \"run\""),
        (json!({"action": "stop", "line": 5}), "no parameter 'line'; there are: action, pid"),
        (json!({"action": "stop", "timeout": -1}), "from 0 to 45, not -1"),
        (json!({"action": "stop", "timeout": 1e300}), "from 0 to 45"),
        (json!({"action": "stop", "timeout": 2.5}), "from 0 to 45"),
        (json!({"action": "stop", "timeout": []}), "from 0 to 45"),
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
fn the_schema_is_flat_and_complete_and_its_help_has_the_defaults() {
    let schema = schema(&OUTPUT);
    assert_eq!((&schema["type"], schema.get("required")), (&json!("object"), None));
    assert_eq!(schema["properties"].as_object().unwrap().len(), OUTPUT.len());
    let timeout = &schema["properties"]["timeout"];
    assert_eq!((&timeout["minimum"], &timeout["maximum"]), (&json!(0), &json!(45)));
    assert_eq!(timeout["description"], "Seconds to wait at most (15).");
    for parameter in LIST.iter().chain(&OUTPUT).chain(&CTRL) {
        let texts = [parameter.help(), parameter.option_help()];
        assert!(texts.iter().all(|text| !text.contains("{}")), "{}", parameter.name);
    }
    assert_eq!(super::schema(&CTRL)["required"], json!(["action"]));
}
