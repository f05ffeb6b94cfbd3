// Pictures of a sweep, drawn from its table: what is not in the table is not in them.
if (document.querySelector("#charts")) {
  const section = document.querySelector("#charts");
  const table = document.querySelector("table.jobs");
  const rows = [...table.tBodies[0].rows];
  const headings = [...table.tHead.rows[0].cells];

  const element = (name, attributes, ...children) => {
    const svg = ["svg", "g", "path", "circle", "text", "title"].includes(name);
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const short = (text, room) => (text.length > room ? `…${text.slice(1 - Math.max(room, 3))}` : text);
  const written = (value, unit, digits) => {
    const round = number => Number(number.toPrecision(digits));
    if (unit === "%") return `${round(value * 100)} %`;
    if (unit === "s") return `${round(value)} s`;
    if (unit === "B") {
      const power = Math.max(0, Math.min(4, Math.floor(Math.log10(Math.abs(value) || 1) / 3)));
      return `${round(value / 1000 ** power)} ${["B", "kB", "MB", "GB", "TB"][power]}`;
    }
    const plain = !value || (Math.abs(value) >= 1e-3 && Math.abs(value) < 1e6);
    return plain ? String(round(value)) : round(value).toExponential().replace("+", "");
  };

  // An axis: where on it each job stands, from 0 to 1 or NaN, and what is written beside it.
  const axisOf = (heading, column) => {
    const cells = rows.map(row => row.cells[column]);
    const { name, unit, better, kind } = heading.dataset;
    const axis = { name, kind, better, unit, shown: !heading.classList.contains("more") };
    axis.label = kind === "setting" ? name : heading.textContent;
    axis.says = cells.map(cell => cell.textContent);
    const given = cells.map(cell => cell.dataset.value);
    axis.numbers = given.map(value => (value === "" ? NaN : Number(value)));
    axis.numeric = given.every((value, job) => value === "" || !Number.isNaN(axis.numbers[job]));
    return Object.assign(axis, axis.numeric ? alongNumbers(axis) : alongNames(given));
  };
  const alongNames = given => {
    const names = [...new Set(given.filter(name => name !== ""))];
    names.sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    const place = name => (names.indexOf(name) + 0.5) / names.length;
    const folders = names.map(name => name.slice(0, name.lastIndexOf("/") + 1));
    const common = names.length > 1 && folders.every(folder => folder === folders[0]) ? folders[0].length : 0;
    return {
      places: given.map(name => (name === "" ? NaN : place(name))),
      ticks: names.map(name => ({ place: place(name), text: name.slice(common) })),
    };
  };
  const alongNumbers = ({ numbers, unit }) => {
    const finite = numbers.filter(Number.isFinite);
    const [low, high] = [Math.min(...finite), Math.max(...finite)];
    const log = low > 0 && high / low >= 50;
    const scale = value => (log ? Math.log10(value) : value);
    const length = scale(high) - scale(low);
    const place = value => (!Number.isFinite(value) ? NaN : length ? (scale(value) - scale(low)) / length : 0.5);
    const power = 10 ** Math.floor(Math.log10((high - low) / 4 || 1));
    const step = power * [1, 2, 5, 10].find(n => n * power >= (high - low) / 5);
    const round = log
      ? [...Array(40)].flatMap((_, n) => [1, 2, 5].map(m => m * 10 ** (Math.floor(scale(low)) + n)))
      : [...Array(12)].map((_, n) => (Math.ceil(low / step) + n) * step);
    let inside = round.filter(value => value >= low && value <= high);
    if (log && inside.length > 7) inside = inside.filter(value => Math.log10(value) % 1 === 0);
    if (inside.length < 2) inside = [...new Set([low, high])];
    const largest = Math.max(Math.abs(low), Math.abs(high));
    const digits = log || !length ? 3 : Math.max(3, Math.min(8, Math.ceil(Math.log10(largest / step)) + 1));
    return {
      log,
      places: numbers.map(place),
      ticks: inside.map(value => ({ place: place(value), text: written(value, unit, digits) })),
    };
  };
  const axes = headings.flatMap((heading, column) => ("axis" in heading.dataset ? [axisOf(heading, column)] : []));
  const settings = headings.flatMap(({ dataset }, column) => (dataset.kind === "setting" ? [[dataset.name, column]] : []));
  const jobs = rows.map((row, number) => ({
    number,
    row,
    done: row.dataset.status === "done",
    status: row.dataset.status,
    look: { done: "", failed: " cross", interrupted: " cross" }[row.dataset.status] ?? " open",
    page: row.querySelector("a")?.href,
    name: settings
      .filter(([, column]) => row.cells[column].textContent)
      .map(([name, column]) => `${name}=${row.cells[column].textContent}`)
      .join("  ") || row.cells[0].textContent,
  }));

  // What both kinds of picture share: a drawing, choices of axes, and one job that is looked at.
  const marks = [];
  const choose = (job, readout, said) => {
    for (const { number, mark } of marks) mark.classList.toggle("chosen", number === job.number);
    for (const { number, mark } of marks) if (number === job.number) mark.parentNode.append(mark);
    for (const { row } of jobs) row.classList.toggle("chosen", row === job.row);
    const name = job.page ? element("a", { href: job.page }, job.name) : job.name;
    readout.replaceChildren(name, `: ${job.done ? "" : `${job.status}; `}${said.join("; ")}`);
  };
  const chart = (figure, choices, paint) => {
    const controls = element("p", { class: "choice" });
    const drawing = element("svg", { tabindex: 0, role: "application" });
    const readout = element("p", { class: "readout", "aria-live": "polite" }, "\u00a0");
    const selects = choices.map(([label, among, chosen]) => {
      const select = element("select", {}, ...among.map(axis => element("option", { value: axis.name }, axis.label)));
      if (among.some(axis => axis.name === chosen)) select.value = chosen;
      select.addEventListener("change", draw);
      controls.append(element("label", {}, element("span", {}, label), select), " ");
      return select;
    });
    figure.append(controls, element("div", { class: "scroll" }, drawing), readout);
    let scene, at;
    const look = place => {
      if (place < 0 || place >= scene.order.length) return;
      at = place;
      choose(jobs[scene.order[at]], readout, scene.says(scene.order[at]));
    };
    function draw() {
      for (let n = marks.length; n--; ) if (drawing.contains(marks[n].mark)) marks.splice(n, 1);
      const chosen = selects.map(select => axes.find(axis => axis.name === select.value));
      const width = Math.max(300, Math.min(figure.clientWidth, 1040));
      drawing.replaceChildren();
      scene = paint(drawing, width, chosen);
      at = -1;
      readout.textContent = scene.missing ? `${scene.missing} of ${jobs.length} jobs have no such values.` : "\u00a0";
      drawing.setAttribute("viewBox", `0 0 ${scene.width} ${scene.height}`);
      drawing.setAttribute("width", scene.width);
      drawing.setAttribute("height", scene.height);
      drawing.setAttribute("aria-label", `${scene.title}. Arrow keys go from job to job, Enter opens its page.`);
    }
    drawing.addEventListener("pointermove", event => {
      const box = drawing.getBoundingClientRect();
      const zoom = scene.width / box.width;
      const found = scene.nearest((event.clientX - box.left) * zoom, (event.clientY - box.top) * zoom);
      if (found !== undefined) look(scene.order.indexOf(found));
    });
    drawing.addEventListener("keydown", event => {
      const last = scene.order.length - 1;
      const step = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: last };
      if (event.key === "Enter" && at >= 0 && jobs[scene.order[at]].page) location.href = jobs[scene.order[at]].page;
      if (!(event.key in step)) return;
      event.preventDefault();
      look(step[event.key]);
    });
    let width = 0;
    new ResizeObserver(() => figure.clientWidth !== width && ((width = figure.clientWidth), draw())).observe(figure);
  };
  const text = (x, y, anchor, words, kind = "") => element("text", { x, y, "text-anchor": anchor, class: kind }, words);
  const least = (numbers, distance, limit) => {
    const [found] = numbers.map(n => [distance(n), n]).sort(([a], [b]) => a - b);
    return found && found[0] < limit ? found[1] : undefined;
  };

  const scatter = figure => {
    const paint = (drawing, width, [across, up]) => {
      const longest = Math.max(...up.ticks.map(({ text }) => text.length));
      const [left, right, top, bottom] = [Math.min(20 + 7 * longest, 0.35 * width), width - 16, 30, 320];
      const x = place => left + 12 + place * (right - left - 24);
      const y = place => bottom - 12 - place * (bottom - top - 24);
      const room = (right - left) / across.ticks.length;
      const every = Math.ceil(44 / room);
      up.ticks.forEach(({ place, text: words }, n) => {
        if (n % Math.ceil((18 * up.ticks.length) / (bottom - top))) return;
        drawing.append(element("path", { class: "grid", d: `M${left} ${y(place)}H${right}` }));
        drawing.append(text(left - 8, y(place) + 4, "end", short(words, Math.floor(left / 7))));
      });
      across.ticks.forEach(({ place, text: words }, n) => {
        if (n % every) return;
        drawing.append(element("path", { class: "grid", d: `M${x(place)} ${top}V${bottom}` }));
        drawing.append(text(x(place), bottom + 18, "middle", short(words, Math.floor((room * every) / 7))));
      });
      const titled = axis => axis.label + (axis.log ? ", logarithmic" : "");
      drawing.append(text(0, 14, "start", `↑ ${titled(up)}`, "axis"));
      drawing.append(text(right, bottom + 42, "end", `${titled(across)} →`, "axis"));
      const known = jobs.filter(({ number: n }) => !Number.isNaN(across.places[n] + up.places[n])).map(job => job.number);
      if (across.better && up.better && across !== up) drawing.append(front(known, across, up, x, y));
      const spots = new Map();
      const points = known.map(number => {
        const spot = [Math.round(x(across.places[number]) / 3), Math.round(y(up.places[number]) / 3)].join();
        const others = spots.get(spot) ?? 0;
        spots.set(spot, others + 1);
        const [angle, far] = [2.4 * others, 4 * Math.sqrt(others)]; // those on one spot make a flower
        const [cx, cy] = [x(across.places[number]) + far * Math.cos(angle), y(up.places[number]) + far * Math.sin(angle)];
        const { look } = jobs[number];
        const mark = look === " cross"
          ? element("path", { class: `point${look}`, d: `M${cx - 4} ${cy - 4}l8 8m0-8l-8 8` })
          : element("circle", { class: `point${look}`, cx, cy, r: 5 });
        drawing.append(mark);
        marks.push({ number, mark });
        return [number, cx, cy];
      });
      const where = new Map(points.map(([number, cx, cy]) => [number, [cx, cy]]));
      return {
        width,
        height: bottom + 50,
        title: `${up.label} over ${across.label}`,
        order: known.sort((a, b) => where.get(a)[0] - where.get(b)[0] || where.get(a)[1] - where.get(b)[1]),
        missing: jobs.length - known.length,
        says: number => [across, up].map(axis => `${axis.label} ${axis.says[number]}`),
        nearest: (px, py) => least(known, n => Math.hypot(where.get(n)[0] - px, where.get(n)[1] - py), 30),
      };
    };
    chart(figure, [["across", axes, figure.dataset.x], ["up", axes, figure.dataset.y]], paint);
  };
  // The jobs that no other beats in one thing without being worse in the other.
  const front = (known, across, up, x, y) => {
    const cost = (axis, n) => (axis.better === "low" ? axis.places[n] : 1 - axis.places[n]);
    const sorted = known.filter(n => jobs[n].done).sort((a, b) => cost(across, a) - cost(across, b) || cost(up, a) - cost(up, b));
    let best = Infinity;
    const kept = sorted.filter(n => cost(up, n) < best && ((best = cost(up, n)), true));
    const path = kept.map(n => `${x(across.places[n])} ${y(up.places[n])}`).join("L");
    return element("path", { class: "front", d: path ? `M${path}` : "" });
  };

  const parallel = figure => {
    const drawn = axes.filter(axis => axis.shown);
    const paint = (drawing, width, [colour]) => {
      const room = Math.max(130, (width - 60) / drawn.length);
      const [top, bottom] = [56, 330];
      const x = n => 30 + room * (n + 0.3);
      const y = place => bottom - place * (bottom - top);
      const lines = new Map();
      drawing.style.setProperty("--strength", Math.max(0.25, Math.min(0.8, 15 / jobs.length)));
      // The best are drawn last, above the others.
      const rank = number => (colour && !Number.isNaN(colour.places[number]) ? colour.places[number] : 2);
      const order = jobs.toSorted((a, b) => (rank(b.number) - rank(a.number)) * (colour?.better === "high" ? -1 : 1));
      for (const { number, done, look } of order) {
        const stops = drawn.map((axis, n) => [x(n), y(axis.places[number])]);
        const path = stops.map(([px, py], n) =>
          Number.isNaN(py) ? "" : `${n && !Number.isNaN(stops[n - 1][1]) ? "L" : "M"}${px} ${py}`).join("");
        if (stops.filter(([, py]) => !Number.isNaN(py)).length < 1) continue;
        lines.set(number, stops);
        const mark = element("path", { class: `line${look}`, d: path });
        const share = colour?.places[number];
        if (done && !Number.isNaN(share)) mark.style.stroke = `color-mix(in oklab, var(--amber) ${100 * share}%, var(--blue))`;
        drawing.append(mark);
        marks.push({ number, mark });
      }
      drawn.forEach((axis, n) => {
        drawing.append(element("path", { class: "stand", d: `M${x(n)} ${top}V${bottom}` }));
        const every = Math.ceil((16 * axis.ticks.length) / (bottom - top));
        axis.ticks.forEach(({ place, text: words }, tick) => {
          if (tick % every) return;
          drawing.append(element("path", { class: "stand", d: `M${x(n)} ${y(place)}h5` }));
          drawing.append(text(x(n) + 8, y(place) + 4, "start", short(words, Math.floor((0.8 * room) / 7)), "tick"));
        });
        const words = axis.label.split(" ").reduce((found, word) => {
          const line = found.length ? `${found.at(-1)} ${word}` : word;
          return found.length && line.length <= room / 7.2 ? [...found.slice(0, -1), line] : [...found, word];
        }, []).slice(0, 3);
        words.forEach((word, at) => drawing.append(
          text(x(n), top - 12 - 14 * (words.length - 1 - at), "middle", short(word, Math.floor(room / 7)), "axis")));
      });
      const known = [...lines.keys()];
      const height = (number, px) => {
        const stops = lines.get(number);
        const n = Math.max(0, Math.min(stops.length - 2, Math.floor((px - stops[0][0]) / room)));
        const [[ax, ay], [, by]] = [stops[n], stops[n + 1]];
        return ay + ((px - ax) / room) * (by - ay);
      };
      return {
        width: Math.max(width, room * drawn.length + 60),
        height: bottom + 20,
        title: "Settings and figures of all jobs",
        order: known.sort((a, b) => rank(a) - rank(b)),
        missing: 0,
        says: number => drawn.filter(axis => axis.kind !== "setting" && axis.says[number]).map(axis => `${axis.label} ${axis.says[number]}`),
        nearest: (px, py) => least(known, n => Math.abs(height(n, px) - py) || 0, 15),
      };
    };
    const numeric = axes.filter(axis => axis.numeric);
    chart(figure, [["from blue (least) to amber (most) by", numeric, figure.dataset.y]], paint);
  };

  section.hidden = false;
  for (const figure of section.querySelectorAll("figure")) ({ scatter, parallel })[figure.dataset.chart](figure);
}
