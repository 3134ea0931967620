// Hands a file that the server has just prepared to the browser's downloads.
watch("value", () => {
  if (!props.value) return;
  const link = element.querySelector("a");
  link.href = props.value.url;
  link.download = props.value.orig_name;
  link.click();
});
