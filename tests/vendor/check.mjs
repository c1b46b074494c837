// Holds requests that the bundled providers made against what their vendors publish: TypeScript
// types (Slack, Telegram, Jira), a JSON Schema (Atlassian Document Format), or the vendor's own
// parser (Adaptive Cards).
//
//     node check.mjs SAMPLES.json
//
// SAMPLES.json: [{"model": "…", "name": "…", "body": …, "wrong": false}]. A sample that is `wrong` has to be
// refused: it shows that the model looks at all. The exit status is 1 when one is judged otherwise.

import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const require = createRequire(import.meta.url);
const here = fileURLToPath(new URL(".", import.meta.url));

/** Of blocks, only those that Block Kit describes: the package's own type takes any. */
const KNOWN_BLOCKS = '{ blocks?: import("@slack/types").KnownBlock[] }';

const TYPES = {
  "slack chat.postMessage": `import("@slack/web-api").ChatPostMessageArguments & ${KNOWN_BLOCKS}`,
  "slack chat.update": `import("@slack/web-api").ChatUpdateArguments & ${KNOWN_BLOCKS}`,
  "telegram sendMessage": 'Parameters<import("@grammyjs/types").ApiMethods<never>["sendMessage"]>[0]',
  "telegram editMessageText": 'Parameters<import("@grammyjs/types").ApiMethods<never>["editMessageText"]>[0]',
  "graph chatMessage": 'import("@microsoft/microsoft-graph-types").ChatMessage',
  "jira createIssue": 'import("jira.js").Version3Parameters.CreateIssue',
  "jira editIssue": 'Omit<import("jira.js").Version3Parameters.EditIssue, "issueIdOrKey">',
  "jira doTransition": 'Omit<import("jira.js").Version3Parameters.DoTransition, "issueIdOrKey">',
};

/** What is wrong with a body, by a check at run time; an empty list when nothing is. */
const CHECKS = {
  "atlassian document": documentFaults(),
  "adaptive card": cardFaults,
};

function documentFaults() {
  const Ajv = require("ajv-draft-04").default;
  const validate = new Ajv({ strict: false }).compile(require("@atlaskit/adf-schema/json-schema/v1/full.json"));
  return (body) => (validate(body) ? [] : validate.errors.map((error) => `${error.instancePath} ${error.message}`));
}

function cardFaults(body) {
  const { AdaptiveCard, SerializationContext, Version, Versions } = require("adaptivecards/dist/adaptivecards.js");
  const context = new SerializationContext(Versions.v1_4);
  const card = new AdaptiveCard();
  card.parse(body, context);
  const faults = [];
  for (let index = 0; index < context.eventCount; index += 1) {
    faults.push(context.getEventAt(index).message);
  }
  const version = Version.parse(body.version, context);
  if (!version || version.compareTo(Versions.v1_4) > 0) {
    faults.push(`version ${body.version} is newer than 1.4`);
  }
  return faults;
}

/** What the compiler says of the samples that it refuses, by their number. */
function typed(samples) {
  const folder = join(here, "node_modules", ".samples");
  mkdirSync(folder, { recursive: true });
  const lines = samples.map(({ model, body }, index) => {
    // A literal on one line, so that the line's number is the sample's.
    return `const s${index}: ${TYPES[model]} = ${JSON.stringify(body)};`;
  });
  const file = join(folder, "samples.ts");
  writeFileSync(file, `${lines.join("\n")}\nexport {};\n`);
  const compiler = join(here, "node_modules", ".bin", "tsc");
  const options = ["--noEmit", "--strict", "--skipLibCheck", "--target", "es2022", "--module", "nodenext", "--pretty", "false"];
  const run = spawnSync(compiler, [...options, "--ignoreConfig", file], { encoding: "utf8" });
  if (run.error) {
    throw run.error;
  }
  const refused = new Map();
  for (const line of run.stdout.split("\n")) {
    const found = /samples\.ts\((\d+),\d+\): error (.*)/.exec(line);
    if (found) {
      refused.set(Number(found[1]) - 1, found[2]);
    }
    if (found ? /TS2307|TS2694/.test(found[2]) : /error TS/.test(line)) {
      throw new Error(`the compiler could not look: ${line}`);
    }
  }
  return refused;
}

const samples = JSON.parse(readFileSync(process.argv[2], "utf8"));
const unknown = samples.find(({ model }) => !(model in TYPES) && !(model in CHECKS));
if (unknown) {
  throw new Error(`no model ${unknown.model}`);
}
const ofTypes = samples.filter(({ model }) => model in TYPES);
const refused = typed(ofTypes);
let failed = false;
for (const sample of samples) {
  const fault = sample.model in TYPES ? refused.get(ofTypes.indexOf(sample)) : CHECKS[sample.model](sample.body)[0];
  const right = Boolean(fault) === Boolean(sample.wrong);
  failed ||= !right;
  console.log(`${right ? "ok  " : "FAIL"} ${sample.model}: ${sample.name}${fault ? `: ${fault}` : ""}`);
}
process.exit(failed ? 1 : 0);
