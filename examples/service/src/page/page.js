// A long job, an image, and the table of workers: three things that know nothing
// of each other.

const find = (id) => document.getElementById(id);
const count = new Intl.NumberFormat("en");

// ---- A long job: the primes, as the service finds them ----

const PRIMES_SHOWN = 24;

const job = {
  source: null,
  limit: 0,
  /// How far it is.
  checked: 0,
  found: 0,
  latest: [],
  isDrawn: true,
};

find("job").addEventListener("submit", (event) => {
  event.preventDefault();
  startJob(Number(find("limit").value));
});

find("stop").addEventListener("click", () => {
  endJob(`Stopped. ${count.format(job.found)} primes had come.`);
});

function startJob(limit) {
  job.source?.close();
  Object.assign(job, { limit, checked: 0, found: 0, latest: [] });
  job.source = new EventSource(`primes?limit=${limit}`);
  job.source.addEventListener("message", (event) => takeLine(JSON.parse(event.data)));
  job.source.addEventListener("error", () => {
    // It would connect again, and begin from the start.
    endJob("The service is not there, or has no place for one more job.", true);
  });
  find("start").disabled = true;
  find("stop").disabled = false;
  find("stop").focus();
  find("outcome").textContent = "";
  drawJob();
}

function takeLine(line) {
  if (line.primes) {
    job.checked = line.primes.at(-1);
    job.found += line.primes.length;
    job.latest = job.latest.concat(line.primes).slice(-PRIMES_SHOWN);
    // Many come in the time of one frame, in which one drawing is seen.
    if (job.isDrawn) {
      job.isDrawn = false;
      requestAnimationFrame(drawJob);
    }
  } else if (line.done) {
    job.checked = job.limit;
    endJob(`Done: ${count.format(line.done.primes)} primes.`);
  } else {
    endJob(`Ended early: ${line.error}`, true);
  }
}

/// Closing the source is all it takes: the service sees that nobody listens.
function endJob(outcome, hasFailed = false) {
  job.source?.close();
  job.source = null;
  drawJob();
  const hadFocus = document.activeElement === find("stop");
  find("start").disabled = false;
  find("stop").disabled = true;
  if (hadFocus) {
    find("start").focus();
  }
  tell("outcome", outcome, hasFailed);
}

function drawJob() {
  job.isDrawn = true;
  find("bar").value = job.checked / job.limit;
  find("progress").textContent =
    `${count.format(job.found)} primes, ` +
    `at ${count.format(job.checked)} of ${count.format(job.limit)}`;
  const items = job.latest.toReversed().map((prime) => {
    const item = document.createElement("li");
    item.textContent = count.format(prime);
    return item;
  });
  find("primes").replaceChildren(...items);
}

// ---- An image ----

find("image").addEventListener("submit", async (event) => {
  event.preventDefault();
  const image = find("thumbnail");
  image.hidden = true;
  tell("image-outcome", "Sending …");
  try {
    const response = await fetch("thumbnail?size=320", {
      method: "POST",
      body: find("file").files[0],
    });
    if (!response.ok) {
      tell("image-outcome", `${response.status}: ${await response.text()}`, true);
      return;
    }
    URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(await response.blob());
    image.hidden = false;
    tell("image-outcome", "Done.");
  } catch (error) {
    tell("image-outcome", error.message, true);
  }
});

// ---- Workers ----

const EVENTS_SHOWN = 5;

/// Rows by pool and place, where a lost worker's successor appears.
const rows = new Map();

const workers = new EventSource("workers");
workers.addEventListener("open", () => setBadge(find("connection"), "open", "connected"));
workers.addEventListener("error", () => setBadge(find("connection"), "lost", "not connected"));
workers.addEventListener("message", (event) => drawWorkers(JSON.parse(event.data)));

find("crash").addEventListener("click", async () => {
  try {
    const response = await fetch("crash", { method: "POST" });
    note(`${response.status}: ${await response.text()}`);
  } catch (error) {
    note(error.message);
  }
});

function drawWorkers(list) {
  const seen = new Set();
  for (const worker of list) {
    const place = `${worker.pool}/${worker.place}`;
    seen.add(place);
    drawWorker(place, worker);
  }
  // Its successor is not there yet.
  for (const [place, row] of rows) {
    if (!seen.has(place)) {
      setBadge(row.badge, "lost", "lost");
    }
  }
}

function drawWorker(place, worker) {
  const row = rows.get(place) ?? addRow(place);
  const pid = worker.pid ?? "–";
  if (row.restarts !== undefined && row.restarts !== worker.restarts) {
    note(`${place}: a new worker replaces process ${row.pid}`);
    mark(row.element);
  }
  row.restarts = worker.restarts;
  row.pid = pid;
  const texts = [
    place,
    pid,
    worker.state,
    worker.task ?? "–",
    worker.running_ms === null ? "–" : `${(worker.running_ms / 1000).toFixed(1)} s`,
    count.format(worker.tasks_done),
    count.format(worker.restarts),
    worker.memory_kib === null ? "–" : `${(worker.memory_kib / 1024).toFixed(1)} MiB`,
  ];
  texts.forEach((text, column) => {
    // What is the same stays, with what is selected in it.
    if (row.cells[column].textContent !== String(text)) {
      row.cells[column].textContent = text;
    }
  });
  row.badge.dataset.state = worker.state;
}

function addRow(place) {
  const element = find("workers").insertRow();
  element.dataset.place = place;
  const columns = document.querySelectorAll("thead th");
  const cells = Array.from(columns, (column) => {
    const cell = element.insertCell();
    cell.className = column.className;
    return cell;
  });
  const badge = document.createElement("span");
  badge.className = "badge";
  cells[2].append(badge);
  cells[2] = badge;
  const row = { element, cells, badge };
  rows.set(place, row);
  return row;
}

/// Runs the animation, from the start if it is under way.
function mark(element) {
  element.classList.remove("replaced");
  void element.offsetWidth;
  element.classList.add("replaced");
}

function note(text) {
  const item = document.createElement("li");
  item.textContent = `${new Date().toLocaleTimeString()}  ${text}`;
  const events = find("events");
  events.prepend(item);
  while (events.children.length > EVENTS_SHOWN) {
    events.lastChild.remove();
  }
}

// ---- For all ----

function setBadge(badge, state, text) {
  badge.dataset.state = state;
  badge.textContent = text;
}

function tell(id, text, hasFailed = false) {
  find(id).textContent = text;
  find(id).classList.toggle("failed", hasFailed);
}
