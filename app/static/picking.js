// A list with boxes to tick: one in its head ticks all, and the buttons wait until something is ticked.
"use strict";
for (const form of document.querySelectorAll("form[data-picking]")) {
  const boxes = [...form.querySelectorAll("tbody input[type=checkbox]")];
  const buttons = [...form.querySelectorAll("button[name=move]")];
  const all = document.createElement("input");
  all.type = "checkbox";
  all.setAttribute("aria-label", "Pick all on this page");
  form.querySelector("thead th").append(all);
  const told = form.querySelector(".buttons .faint");
  const show = () => {
    const picked = boxes.filter((box) => box.checked).length;
    all.checked = picked === boxes.length;
    all.indeterminate = picked > 0 && !all.checked;
    for (const button of buttons) button.disabled = picked === 0;
    if (told) told.textContent = picked ? `The ${picked} picked:` : "The picked:";
  };
  all.addEventListener("change", () => {
    for (const box of boxes) box.checked = all.checked;
    show();
  });
  form.addEventListener("change", show);
  addEventListener("pageshow", show); // the browser's way back leaves boxes ticked
  show();
}
