// Faults of the page as it stands, in words: what overflows, is cut off, cannot be read or is too small.
() => {
  const faults = new Set();
  const style = element => getComputedStyle(element);
  const quote = text => JSON.stringify(text.trim().replace(/\s+/g, " ").slice(0, 60));
  const clips = value => value === "hidden" || value === "clip";
  const scrolls = value => value === "auto" || value === "scroll";
  // A box that ends its text with "…". A test of the page tells where the whole text is.
  const marked = s => s.textOverflow === "ellipsis" || s.webkitLineClamp !== "none";

  if (document.documentElement.scrollWidth > innerWidth)
    faults.add(`the document is ${document.documentElement.scrollWidth} px wide, the screen ${innerWidth}`);

  // Where a text goes past a box that hides what is outside, or past the screen. What scrolls shows all of its content.
  function cut(node, rectangle) {
    let { left, right, top, bottom } = rectangle;
    for (let box = node.parentElement; box; box = box.parentElement) {
      const s = style(box), edge = box.getBoundingClientRect();
      if (s.position === "absolute" && edge.width <= 1) return null; // for screen readers
      if (marked(s)) ({ left, right, top, bottom } = edge);
      if (scrolls(s.overflowX)) ({ left, right } = edge);
      else if (clips(s.overflowX) && (right > edge.right + 2 || left < edge.left - 2)) return "at a side";
      if (scrolls(s.overflowY)) ({ top, bottom } = edge);
      else if (clips(s.overflowY) && box !== document.body && bottom > edge.bottom + 4) return "below";
    }
    return right > innerWidth + 1 || left < -1 ? "by the screen" : null;
  }

  const channels = color => (color.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const luminance = rgb => {
    const [r, g, b] = rgb.map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  function background(element) {
    const layers = [];
    for (let box = element; box; box = box.parentElement) {
      const [r, g, b, alpha = 1] = channels(style(box).backgroundColor);
      layers.push([[r, g, b], alpha]);
      if (alpha === 1) break;
    }
    return layers.reduceRight((below, [rgb, alpha]) => below.map((v, i) => rgb[i] * alpha + v * (1 - alpha)),
      [255, 255, 255]);
  }
  function contrast(element) {
    const [r, g, b] = channels(style(element).color);
    const [one, other] = [luminance([r, g, b]), luminance(background(element))];
    return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  }

  if (matchMedia("(prefers-color-scheme: dark)").matches && luminance(background(document.body)) > 0.2)
    faults.add("bright on a dark screen");

  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const node = texts.currentNode, element = node.parentElement;
    if (!node.data.trim() || !element.checkVisibility({ visibilityProperty: true, opacityProperty: true })) continue;
    if (element.closest("svg, script, style, option, :disabled")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const where = cut(node, range.getBoundingClientRect());
    if (where) faults.add(`cut off ${where}: ${quote(node.data)}`);
    const size = parseFloat(style(element).fontSize);
    if (size < 11) faults.add(`${size} px: ${quote(node.data)}`);
    const ratio = contrast(element);
    if (ratio < 4.5 && !(size >= 18.6 && ratio >= 3)) faults.add(`contrast ${ratio.toFixed(1)}: ${quote(node.data)}`);
  }

  // A table is read by lines: a column that holds one word per line is not.
  for (const cell of document.querySelectorAll("td")) {
    const text = cell.textContent.trim();
    if (text.length <= 20 || !cell.checkVisibility()) continue;
    const range = document.createRange();
    range.selectNodeContents(cell);
    const lines = new Set([...range.getClientRects()].filter(r => r.width > 0).map(r => Math.round(r.bottom / 8))).size;
    if (lines > 3 && text.length / lines < 8) faults.add(`${lines} lines in a cell: ${quote(text)}`);
  }
  // A column that stays while the others scroll leaves room for them.
  for (const box of [...document.querySelectorAll("table")].map(table => table.parentElement))
    for (const cell of box.scrollWidth > box.clientWidth ? box.querySelectorAll("td:first-child") : [])
      if (style(cell).position === "sticky" && cell.offsetWidth > 0.6 * box.clientWidth)
        faults.add(`the fixed column hides the others: ${quote(cell.textContent)}`);
  const pen = document.createElement("canvas").getContext("2d");
  for (const input of document.querySelectorAll("input:not([type=range])")) {
    const text = input.value || input.placeholder, s = style(input);
    pen.font = s.font;
    const room = input.clientWidth - parseFloat(s.paddingLeft) - parseFloat(s.paddingRight);
    if (input.checkVisibility() && pen.measureText(text).width > room + 1) faults.add(`cut off in a field: ${quote(text)}`);
  }
  for (const image of document.images)
    if (image.checkVisibility() && !(image.complete && image.naturalWidth > 0)) faults.add(`no image: ${image.alt}`);
  return [...faults];
}
