//! Small flows that many tests run.

pub const HELLO: &str = "\
id: hello
version: 1.0.0
initialStepId: greet
output: { type: path, path: greeting }
steps:
  greet:
    type: set
    input: { type: template, template: { text: \"Hello ${name}\" } }
    outputKey: greeting
    transitions: { onSuccess: null }
";

pub const FAILING: &str = "\
id: failing
version: 1.0.0
initialStepId: late
steps:
  late: { type: fail, config: { code: LATE, message: too late }, transitions: { onSuccess: null } }
";

pub const SIGNAL: &str = "\
id: paying
version: 1.0.0
initialStepId: paid
steps:
  paid: { type: wait-signal, outputKey: payment, transitions: { onSuccess: null, onResume: null } }
";

pub const MONTH: &str = "\
id: reminder
version: 1.0.0
initialStepId: pause
steps:
  pause: { type: delay, config: { days: 30 }, transitions: { onSuccess: remind } }
  remind: { type: set, config: { value: true }, outputKey: reminded, transitions: { onSuccess: null } }
";

pub const EACH: &str = "\
id: each
version: 1.0.0
initialStepId: fan
steps:
  fan:
    type: map
    config:
      items: { type: static, value: [1, 2] }
      body: { type: wait-signal, config: { signal: go } }
    outputKey: all
    transitions: { onSuccess: null }
";
